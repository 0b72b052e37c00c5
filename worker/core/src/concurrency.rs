//! Rule: what follows when an async handler changes how many jobs it runs at once. It gets more jobs as soon as there are any; with
//! a smaller number the jobs that it runs may finish, and it gets the next one when fewer than that are left.

use runpod_handler_protocol::MAX_CONCURRENCY;

use crate::boundary::{ProcessId, Report, Time};
use crate::states::{Phase, Slot};
use crate::worker::Worker;

impl Worker {
    /// A process runs this many jobs at the same time from now on.
    pub(crate) fn concurrency_changed(&mut self, now: Time, id: ProcessId, jobs: u32) {
        let is_async = self.process(id).manifest.as_ref().is_some_and(|manifest| manifest.max_concurrency.is_some());
        if !is_async {
            self.violated_protocol(now, id, "a concurrency, which only an async handler has".to_owned());
            return;
        }
        let stalls_at = now + self.policy.load_stall_timeout;
        let process = self.process(id);
        let new_slot = match process.phase {
            Phase::Serving | Phase::Retiring { .. } => Slot::Ready,
            Phase::Loading => Slot::Loading { stalls_at },
            _ => return,
        };
        let (before, after) = (process.slots.usable(), jobs.clamp(1, MAX_CONCURRENCY) as usize);
        process.slots.set_usable(after, &new_slot);
        if before == after {
            return;
        }
        self.report(Report::ConcurrencyChanged { process: id, before, after });
        if after < before {
            // The poll in flight has asked for more jobs than can start now.
            self.abort_poll();
        }
    }
}
