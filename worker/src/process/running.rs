//! Which jobs a process runs, so that its log lines can name theirs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runpod_handler_protocol::{ToHandler, ToSupervisor};

/// The jobs sent to a process and not answered yet. Output lines carry no job id of their own, so they can be told apart
/// only while one job runs.
#[derive(Clone, Debug, Default)]
pub(super) struct RunningJobs(Arc<Mutex<BTreeSet<String>>>);

impl RunningJobs {
    pub(super) fn sending(&self, message: &ToHandler) {
        if let ToHandler::Run { job, .. } = message {
            self.lock().insert(job.clone());
        }
    }

    pub(super) fn received(&self, message: &ToSupervisor) {
        if let ToSupervisor::Done { job, .. } | ToSupervisor::Failed { job, .. } = message {
            self.lock().remove(job);
        }
    }

    /// The one job that runs; `None` when there is no job or more than one.
    pub(super) fn only_one(&self) -> Option<String> {
        let jobs = self.lock();
        jobs.first().filter(|_| jobs.len() == 1).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
