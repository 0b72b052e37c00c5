//! What log lines say about a job beside its id. Lines name their job; the rest is looked up here, wherever they are written.

use std::collections::BTreeMap;

use parking_lot::RwLock;

/// What every line of a job carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobTags {
    /// `batchId` of the job.
    pub(crate) batch: Option<String>,
    /// The trace that the job belongs to.
    pub(crate) trace_id: Option<String>,
}

/// The jobs that are held, if there is anything to say about them.
static JOBS: RwLock<BTreeMap<String, JobTags>> = RwLock::new(BTreeMap::new());

/// From now on lines of this job carry these.
pub(crate) fn open_job(job: &str, tags: JobTags) {
    if tags != JobTags::default() {
        JOBS.write().insert(job.to_owned(), tags);
    }
}

/// The job has left the worker.
pub(crate) fn close_job(job: &str) {
    JOBS.write().remove(job);
}

pub(crate) fn tags(job: &str) -> Option<JobTags> {
    JOBS.read().get(job).cloned()
}
