//! What log lines of a job carry beside its id. A line names its job; its batch and trace are looked up here.

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

/// The jobs in the worker that have tags.
static JOBS: RwLock<BTreeMap<String, JobTags>> = RwLock::new(BTreeMap::new());

/// Lines of this job carry these tags from now on.
pub(crate) fn open_job(job: &str, tags: JobTags) {
    if tags != JobTags::default() {
        JOBS.write().insert(job.to_owned(), tags);
    }
}

/// Forgets a job that has left the worker.
pub(crate) fn close_job(job: &str) {
    JOBS.write().remove(job);
}

pub(crate) fn tags(job: &str) -> Option<JobTags> {
    JOBS.read().get(job).cloned()
}
