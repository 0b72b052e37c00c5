//! Which workers are there: polls, heartbeats and the events of their processes.

use super::Queue;
use crate::store::clock::Timestamp;
use crate::store::job::State;
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::workers::{Heartbeat, WorkerEvent};

impl<P: Content> Queue<P> {
    /// Notes a heartbeat. It extends only jobs that this worker holds.
    pub fn heartbeat(&mut self, now: Timestamp, worker: &str, heartbeat: &Heartbeat) {
        let limits = self.limits;
        let first = self.workers.get(worker).is_none_or(|known| !known.heartbeat_seen);
        let worker = self.workers.heartbeat(now, worker, heartbeat, &limits);
        let mut extended = heartbeat.jobs.clone();
        if first {
            // The first heartbeat: from here on the jobs that it holds have leases.
            extended.extend(self.workers.get(&worker).into_iter().flat_map(|known| known.held.iter().cloned()));
        }
        for id in extended {
            let Some(id) = self.held_by(now, &worker, &id) else { continue };
            if let Some(job) = self.jobs.get_mut(&id)
                && let State::Running(run) = &mut job.record.state
                && run.lease.replace(now + limits.lease).is_none()
            {
                self.journal.touched(&id);
            }
            self.settle(&id);
        }
        for id in self.workers.ignored_stops(&worker, &heartbeat.jobs) {
            self.workers.withdraw_stop(&worker, &id);
            self.stop(&worker, &id);
        }
    }

    /// Notes that a worker holds a poll open from now on.
    pub fn poll_started(&mut self, now: Timestamp, worker: &str) {
        self.workers.poll_started(now, worker, &self.limits);
    }

    /// Notes that such a poll has ended.
    pub fn poll_ended(&mut self, now: Timestamp, worker: &str) {
        self.workers.poll_ended(now, worker);
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
            WorkerEvent::Leaving => self.workers.recycle(now, worker, &self.limits),
            WorkerEvent::Failing => self.workers.fail(now, worker, &self.limits),
            WorkerEvent::Throttled => self.workers.throttle(now, worker, &self.limits),
            WorkerEvent::Gone => self.lose_worker(now, worker),
        }
    }
}
