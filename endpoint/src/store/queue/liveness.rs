//! Which workers are there: polls, heartbeats and the events of their processes.

use std::sync::Arc;
use std::time::Duration;

use super::{Effect, Queue};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::job::State;
use crate::store::payload::Content;
use crate::store::presence::Admission;
use crate::store::request::JobId;
use crate::store::workers::{Heartbeat, WorkerEvent};

impl<P: Content> Queue<P> {
    /// Admits a request of a worker's process.
    ///
    /// # Errors
    /// While another process serves under this id.
    pub fn admit(&mut self, now: Timestamp, worker: &str, instance: Option<&str>) -> Result<(), StoreError> {
        match self.workers.admit(now, worker, instance, &self.limits) {
            Admission::Admitted { is_news } => {
                if is_news {
                    self.report_duplicate(Arc::from(worker));
                }
                Ok(())
            }
            Admission::Refused { is_news } => {
                let worker = Arc::from(worker);
                if is_news {
                    self.report_duplicate(Arc::clone(&worker));
                }
                Err(StoreError::WorkerIdInUse(worker))
            }
        }
    }

    fn report_duplicate(&mut self, worker: Arc<str>) {
        self.totals.duplicate_workers += 1;
        self.effects.push(Effect::DuplicateWorker(worker));
    }

    /// Notes that a worker leaves and asks for no more jobs. Results of it that are still on their way are taken.
    pub fn goodbye(&mut self, worker: &str) {
        self.workers.leave(worker);
    }

    /// Notes a heartbeat. It extends only jobs that this worker holds, by the lease, which is returned.
    pub fn heartbeat(&mut self, now: Timestamp, worker: &str, heartbeat: &Heartbeat) -> Duration {
        let limits = self.limits;
        let first = self.workers.get(worker).is_none_or(|known| !known.heartbeat_seen);
        let worker = self.workers.heartbeat(now, worker, heartbeat, &limits);
        if let Some(model) = heartbeat.model.as_ref().and_then(|model| self.workers.introduce(now, &worker, model)) {
            self.model = Some(model);
        }
        let mut extended = heartbeat.jobs.clone();
        if first {
            // The first heartbeat: from here on the jobs that it holds have leases.
            extended.extend(self.workers.get(&worker).into_iter().flat_map(|known| known.held.iter().cloned()));
        }
        for id in extended {
            let Some(id) = self.held_by(now, &worker, &id) else { continue };
            if let Some(job) = self.jobs.get_mut(&id)
                && let State::Running(run) = &mut job.record.state
            {
                match run.lease.replace(now + limits.lease) {
                    None => self.journal.touched(&id),
                    Some(_) => self.journal.renewed(&id),
                }
            }
            self.settle(&id);
        }
        for id in self.workers.ignored_stops(&worker, &heartbeat.jobs) {
            self.workers.withdraw_stop(&worker, &id);
            self.stop(&worker, &id);
        }
        limits.lease
    }

    /// Notes that a worker holds a poll open from now on.
    pub fn poll_started(&mut self, now: Timestamp, worker: &str) {
        self.workers.poll_started(now, worker, &self.limits);
    }

    /// Notes that such a poll has ended; `answered` unless the worker hung up.
    pub fn poll_ended(&mut self, now: Timestamp, worker: &str, answered: bool) {
        if self.workers.poll_ended(now, worker, answered) {
            self.report_duplicate(Arc::from(worker));
        }
    }

    /// Notes that a worker holds a poll for stop signals open; returns whether the worker is known.
    pub fn stop_poll_started(&mut self, now: Timestamp, worker: &str) -> bool {
        self.workers.stop_poll_started(now, worker)
    }

    /// Notes that such a poll of a known worker has ended.
    pub fn stop_poll_ended(&mut self, now: Timestamp, worker: &str, answered: bool) {
        self.workers.stop_poll_ended(now, worker, answered);
    }

    /// The jobs that this worker must stop; each is named once.
    pub fn take_stops(&mut self, worker: &str) -> Vec<JobId> {
        self.workers.take_stops(worker)
    }

    /// Notes what happened to a worker's process.
    pub fn worker_event(&mut self, now: Timestamp, worker: &str, event: WorkerEvent) {
        match event {
            WorkerEvent::Starting => {
                self.lose_worker(now, worker);
                self.workers.contact(now, worker, &self.limits);
            }
            WorkerEvent::Leaving => self.workers.refresh(now, worker, &self.limits),
            WorkerEvent::Failing => self.workers.fail(now, worker, &self.limits),
            WorkerEvent::Throttled => self.workers.throttle(now, worker, &self.limits),
            WorkerEvent::Serving(requests) => self.workers.serve(now, worker, requests, &self.limits),
            WorkerEvent::Gone => self.lose_worker(now, worker),
        }
    }
}
