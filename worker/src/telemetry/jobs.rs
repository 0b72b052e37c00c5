//! What log lines say about a job beside its id. Lines name their job; the rest is looked up here, wherever they are written.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// What every line of a job carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JobTags {
    /// `batchId` of the job.
    pub(super) batch: Option<String>,
    /// The trace that the job belongs to.
    pub(super) trace_id: Option<String>,
}

/// The jobs that are held, if there is anything to say about them.
static JOBS: RwLock<BTreeMap<String, JobTags>> = RwLock::new(BTreeMap::new());

/// From now on lines of this job carry these.
pub(super) fn open(job: &str, tags: JobTags) {
    if tags != JobTags::default() {
        JOBS.write().unwrap_or_else(PoisonError::into_inner).insert(job.to_owned(), tags);
    }
}

/// The job has left the worker.
pub(super) fn close(job: &str) {
    JOBS.write().unwrap_or_else(PoisonError::into_inner).remove(job);
}

pub(super) fn tags(job: &str) -> Option<JobTags> {
    JOBS.read().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
}
