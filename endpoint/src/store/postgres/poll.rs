//! Polls that are held open, and jobs on their way to a worker.

use std::sync::Arc;

use super::PostgresStore;
use super::local::Local;
use super::shared::Shared;
use super::work::Need;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::payload::Filed;
use crate::store::queue::Queue;
use crate::store::views::TakenJob;

/// Jobs that were taken and not yet passed on. They go back when the poll ends before that.
pub(super) struct Taken {
    pub(super) shared: Arc<Shared>,
    pub(super) local: Arc<Local>,
    pub(super) worker: Arc<str>,
    pub(super) jobs: Vec<TakenJob<Filed>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let jobs: Vec<_> = self.jobs.drain(..).map(|job| (job.id, job.attempt)).collect();
        let need = Need { jobs: jobs.iter().map(|(id, _)| Arc::clone(id)).collect(), ..Need::worker(&self.worker) };
        let worker = Arc::clone(&self.worker);
        self.shared.note(&self.local, need, move |queue, _| {
            for (id, attempt) in &jobs {
                queue.return_unsent(&worker, id, *attempt);
            }
        });
    }
}

/// What a poll asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsksFor {
    Jobs,
    Stops,
}

/// A poll that is held open. When its worker hangs up, that is noted.
pub(super) struct Poll {
    pub(super) shared: Arc<Shared>,
    pub(super) local: Arc<Local>,
    pub(super) worker: Arc<str>,
    pub(super) asks_for: AsksFor,
    /// It has not ended as far as the database knows.
    pub(super) is_open: bool,
}

impl Drop for Poll {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let (worker, asks_for) = (Arc::clone(&self.worker), self.asks_for);
        self.shared.note(&self.local, Need::worker(&self.worker), move |queue, now| match asks_for {
            AsksFor::Jobs => queue.poll_ended(now, &worker, false),
            AsksFor::Stops => queue.stop_poll_ended(now, &worker, false),
        });
    }
}

/// What a look for jobs has found.
pub(super) struct Look {
    pub(super) taken: Taken,
    /// Whether the worker may get jobs at all.
    pub(super) is_eligible: bool,
    /// The poll ended with this look.
    pub(super) has_ended: bool,
}

impl PostgresStore {
    /// One look for jobs, as part of a poll.
    pub(super) async fn look_for_jobs(
        &self,
        poll: &Poll,
        max: usize,
        is_first: bool,
        is_last: bool,
    ) -> Result<Look, StoreError> {
        let worker = Arc::clone(&poll.worker);
        let need = Need { take: max, ..Need::worker(&worker) };
        let (shared, local, taker) = (Arc::clone(&self.shared), Arc::clone(&poll.local), Arc::clone(&worker));
        let decide = move |queue: &mut Queue<Filed>, now: Timestamp| {
            if is_first {
                queue.poll_started(now, &worker);
            }
            let jobs = queue.take(now, &worker, max);
            let is_eligible = queue.is_eligible(&worker);
            let has_ended = is_last || !jobs.is_empty();
            if has_ended {
                queue.poll_ended(now, &worker, true);
            }
            (jobs, is_eligible, has_ended)
        };
        let seen = move |(jobs, is_eligible, has_ended)| {
            let taken = Taken { shared, local, worker: taker, jobs };
            Look { taken, is_eligible, has_ended }
        };
        self.shared.run_seen(&poll.local, need, decide, seen).await
    }

    pub(super) async fn end_poll(&self, mut poll: Poll) {
        let worker = Arc::clone(&poll.worker);
        let asks_for = poll.asks_for;
        let ended = self.shared.run(&poll.local, Need::worker(&poll.worker), move |queue, now| match asks_for {
            AsksFor::Jobs => queue.poll_ended(now, &worker, true),
            AsksFor::Stops => queue.stop_poll_ended(now, &worker, true),
        });
        poll.is_open = ended.await.is_err();
    }

    pub(super) fn poll(&self, local: &Arc<Local>, worker: &str, asks_for: AsksFor) -> Poll {
        Poll {
            shared: Arc::clone(&self.shared),
            local: Arc::clone(local),
            worker: Arc::from(worker),
            asks_for,
            is_open: true,
        }
    }

    /// Jobs with their texts, for the worker that they are given to.
    pub(super) async fn delivered(&self, mut taken: Taken) -> Result<Vec<TakenJob>, StoreError> {
        let jobs = self.with_texts(taken.jobs.clone()).await?;
        taken.jobs.clear();
        Ok(jobs)
    }

    /// Jobs with their texts; without those whose records have expired meanwhile.
    pub(super) async fn with_texts(&self, jobs: Vec<TakenJob<Filed>>) -> Result<Vec<TakenJob>, StoreError> {
        let loaded = self.shared.with_payloads(jobs.iter().map(|job| job.request.clone()).collect()).await?;
        let with_text = |(job, request): (TakenJob<Filed>, Option<_>)| {
            let TakenJob { id, attempt, handover, submitted, delay, .. } = job;
            request.map(|request| TakenJob { id, attempt, handover, submitted, delay, request })
        };
        Ok(jobs.into_iter().zip(loaded).filter_map(with_text).collect())
    }
}
