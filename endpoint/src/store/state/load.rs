//! What there is to do and who is there to do it: what a scaler decides on.

use super::Queue;
use crate::store::content::Content;
use crate::store::inspect::WorkerView;
use crate::store::job::{Place, Timestamp};

/// Waiting jobs counted at most: no scaler asks for that many workers.
const MAX_COUNTED: usize = 10_000;

/// The work of one endpoint at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait, without those of low priority. Counted up to a bound.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub oldest: Option<Timestamp>,
    /// Jobs held by workers.
    pub in_progress: usize,
    /// The workers, sorted by id.
    pub workers: Vec<WorkerView>,
}

impl<P: Content> Queue<P> {
    /// The load. Low-priority jobs must not trigger scaling, so they are left out of what waits.
    #[must_use]
    pub fn load(&self, now: Timestamp) -> Load {
        let first_low = Place { low_priority: true, number: 0 };
        let mut urgent = self.waiting.range(..first_low);
        let first = urgent.next();
        Load {
            waiting: usize::from(first.is_some()) + urgent.take(MAX_COUNTED).count(),
            oldest: first.and_then(|(_, id)| self.jobs.get(id)).map(|job| now.saturating_sub(job.submitted)),
            in_progress: self.in_progress,
            workers: self.workers.list(now, &self.limits, usize::MAX),
        }
    }
}
