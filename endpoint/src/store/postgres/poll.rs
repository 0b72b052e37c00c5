//! Polls that are held open, and jobs on their way to a worker.

use std::sync::Arc;

use super::local::Local;
use super::shared::Shared;
use super::work::Need;
use crate::store::payload::Filed;
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
