//! A job as a reader of a durable store gets it.

use super::{Mark, Queue};
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::views::JobView;

/// A view, and what has to be on disk before it may be shown.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot<P> {
    pub(crate) view: JobView<P>,
    /// The job's number in the data file.
    pub(crate) number: u64,
    /// The job's latest change.
    pub(crate) mark: Mark,
}

impl<P: Content> Queue<P> {
    /// The job as it is in memory.
    pub(crate) fn snapshot(&self, id: &str) -> Option<Snapshot<P>> {
        let job = self.jobs.get(id)?;
        Some(Snapshot { view: job.record.view(), number: job.record.number, mark: job.mark })
    }

    /// These jobs, as far as they exist.
    pub(crate) fn snapshots(&self, ids: impl IntoIterator<Item = JobId>) -> Vec<Snapshot<P>> {
        ids.into_iter().filter_map(|id| self.snapshot(&id)).collect()
    }

    /// The mark of the job's latest change.
    pub(crate) fn mark_of(&self, id: &str) -> Mark {
        self.jobs.get(id).map_or(0, |job| job.mark)
    }
}
