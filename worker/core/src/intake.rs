//! Rule: what becomes of a job that the queue has handed out. Every job is run, answered, handed back or known to be
//! stopped.

use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::boundary::{Effect, OutboxItem, Report, TakenJob, Time};
use crate::ending::{Extras, Outcome};
use crate::states::Job;
use crate::worker::Worker;

impl Worker {
    /// Takes in a job.
    pub(crate) fn take(&mut self, now: Time, taken: &TakenJob) {
        let id = taken.id.clone();
        if self.jobs.contains(&id) {
            if let Some(mut held) = self.jobs.get_mut(&id).filter(|held| held.must_run_again()) {
                held.taken_again = Some(Box::new(taken.clone()));
            }
            self.report(Report::DuplicateJob { job: id });
            return;
        }
        if self.lifecycle.is_closed() {
            // No heartbeat lists it, so the queue gives it to another worker even if it does not support hand-backs.
            self.report(Report::JobRejected { job: id.clone() });
            self.emit(Effect::HandBack { job: id });
            return;
        }
        if let Some(result) = self.recent.get(&id).cloned() {
            self.jobs.insert(Job::delivering(taken, now, self.policy.job_timeout));
            self.report(Report::DuplicateJob { job: id.clone() });
            self.emit(Effect::Deliver { job: id, item: OutboxItem::Final(result) });
            return;
        }
        self.report(Report::JobTaken { job: id.clone(), tenant: taken.tenant.clone() });
        self.jobs.insert(Job::new(taken, now, self.policy.job_timeout));
        if self.poll.take_early_stop(&id) {
            self.finish(now, &id, Outcome::Cancelled, Extras::default());
        } else if let Err(reason) = &taken.body {
            let error = ErrorReport { kind: ErrorKind::Protocol, message: reason.clone(), traceback: String::new() };
            self.fail(now, &id, error);
        } else {
            self.waiting.push_back(id);
        }
    }
}
