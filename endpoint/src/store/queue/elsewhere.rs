//! Jobs that another endpoint runs for this one: which they are, and what is known of them.

use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use crate::store::clock::Timestamp;
use crate::store::job::{Position, Run, State};
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::status::Status;
use crate::store::views::{CancelElsewhere, JobElsewhere, Overdue, TakenJob};
use crate::store::workers::OVERFLOW;

/// The other endpoint ends a job at its timeout first; this one waits that many times as long as for a worker.
const GRACES: u32 = 2;

/// Jobs at the front of the queue that are looked at.
const MAX_LOOKED_AT: usize = 10_000;

impl<P: Content> Queue<P> {
    /// Gives jobs that have waited for too long to the worker [`OVERFLOW`]. Those of low priority stay: they must not cost more. A job's
    /// time to run does not begin yet.
    pub fn take_overdue(&mut self, now: Timestamp, overdue: &Overdue) -> Vec<TakenJob<P>> {
        let limits = self.limits;
        let (worker, known) = self.workers.contact(now, OVERFLOW, &limits);
        known.note_polling();
        if !known.is_eligible() || self.paused {
            return Vec::new();
        }
        let fits = |id: &&JobId| {
            let run_time = self.jobs.get(*id).map(|job| job.record.request.policy.run_time());
            overdue.run_time.is_none_or(|longest| run_time.is_some_and(|run_time| run_time <= longest))
        };
        let wanted = self.overdue(now, overdue).filter(fits).take(overdue.max);
        let position = |id: &JobId| self.jobs.get(id).map(|job| (job.record.position, Arc::clone(id)));
        let wanted: Vec<_> = wanted.filter_map(position).collect();
        let give = |(position, id): (Position, JobId)| {
            self.waiting.serve(&position);
            let (poller, worker) = (Arc::clone(&worker), Arc::clone(&worker));
            let lease = Some(now + limits.lease);
            self.give(now, &id, Run { poller, worker, since: now, execution_deadline: None, lease, far_id: None })
        };
        wanted.into_iter().filter_map(give).collect()
    }

    /// Whether a job has waited for too long, however long it may run.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp, overdue: &Overdue) -> bool {
        !self.paused && self.overdue(now, overdue).next().is_some()
    }

    fn overdue<'a>(&'a self, now: Timestamp, overdue: &'a Overdue) -> impl Iterator<Item = &'a JobId> {
        let has_waited = move |id: &&JobId| {
            let submitted = self.jobs.get(*id).map(|job| job.record.submitted);
            submitted.is_some_and(|submitted| now.saturating_sub(submitted) >= overdue.after)
        };
        // Where clients take turns, older jobs stand behind younger ones.
        let late = self.waiting.urgent().take(MAX_LOOKED_AT).filter(has_waited);
        late.filter(|id| !overdue.except.contains(*id))
    }

    /// Notes that the other endpoint has accepted a job under an id of its own. One that is over here by now is to be cancelled there.
    pub fn accepted_elsewhere(&mut self, id: &str, far_id: &str) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let (record, far_id) = (&mut job.record, Arc::from(far_id));
        match &mut record.state {
            State::Running(run) if *run.worker == *OVERFLOW => run.far_id = Some(far_id),
            _ => record.handovers.give_up(&far_id),
        }
        let id = Arc::clone(&record.id);
        self.changed(&id);
    }

    /// Jobs that the other endpoint is to cancel.
    #[must_use]
    pub fn cancels_elsewhere(&self) -> Vec<CancelElsewhere> {
        let view = |number: &u64| {
            let record = &self.jobs.get(self.by_age.get(number)?)?.record;
            let (id, far_id) = (Arc::clone(&record.id), record.handovers.cancel.clone()?);
            Some(CancelElsewhere { id, far_id, run_time: record.request.policy.run_time() })
        };
        self.cancelled_elsewhere.iter().filter_map(view).collect()
    }

    /// Notes that the other endpoint no longer has a job that was to be cancelled there.
    pub fn cancelled_elsewhere(&mut self, id: &str, far_id: &str) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let record = &mut job.record;
        if record.handovers.cancel.as_deref() == Some(far_id) {
            record.handovers.cancel = None;
            let id = Arc::clone(&record.id);
            self.changed(&id);
        }
    }

    /// Jobs that another endpoint has, and that none of its workers has begun.
    pub(super) fn waiting_elsewhere(&self) -> impl Iterator<Item = &JobId> {
        let held = self.workers.get(OVERFLOW).into_iter().flat_map(|worker| &worker.held);
        held.filter(|id| self.jobs.get(*id).is_some_and(|job| job.status() == Status::InQueue))
    }

    /// Notes that a worker of the other endpoint has begun a job, and how long ago: its time runs.
    pub fn begun_elsewhere(&mut self, now: Timestamp, id: &str, ago: Duration) {
        let limits = self.limits;
        let Some(job) = self.jobs.get_mut(id) else { return };
        let record = &mut job.record;
        let State::Running(run) = &mut record.state else { return };
        if *run.worker != *OVERFLOW || !run.waits_elsewhere() {
            return;
        }
        run.since = now.saturating_sub(ago).max(run.since);
        run.execution_deadline = Some(run.since + record.request.policy.run_time() + limits.timeout_grace * GRACES);
        let delay = run.since.saturating_sub(record.submitted);
        record.attempt.delay = Some(delay);
        if record.attempt.retries == 0 {
            self.totals.delay.observe(delay);
        }
        let id = Arc::clone(&record.id);
        self.changed(&id);
    }

    /// The jobs that the worker [`OVERFLOW`] holds, in the order of their ids.
    #[must_use]
    pub fn elsewhere(&self) -> Vec<JobElsewhere> {
        let held = self.workers.get(OVERFLOW).into_iter().flat_map(|worker| &worker.held);
        let view = |id: &JobId| {
            let record = &self.jobs.get(id)?.record;
            let State::Running(run) = &record.state else { return None };
            Some(JobElsewhere {
                id: Arc::clone(id),
                far_id: run.far_id.clone(),
                has_begun: !run.waits_elsewhere(),
                run_time: record.request.policy.run_time(),
            })
        };
        let mut jobs: Vec<_> = held.filter_map(view).collect();
        jobs.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        jobs
    }

    /// A job that the worker [`OVERFLOW`] holds and that no other endpoint is known to have accepted, as it was taken.
    #[must_use]
    pub fn taken_elsewhere(&self, id: &str) -> Option<TakenJob<P>> {
        let record = &self.jobs.get(id)?.record;
        let State::Running(run) = &record.state else { return None };
        (*run.worker == *OVERFLOW && run.far_id.is_none()).then(|| TakenJob {
            id: Arc::clone(&record.id),
            attempt: record.attempt.number,
            handover: record.handovers.present(run.since),
            submitted: record.submitted,
            delay: run.since.saturating_sub(record.submitted),
            request: record.request.clone(),
        })
    }
}
