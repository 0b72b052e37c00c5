//! Which jobs a process runs, so that its log lines can name theirs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use runpod_handler_protocol::{ToHandler, ToSupervisor};

use super::limits::LATE_LINES;

/// The jobs sent to a process and not answered yet. Plain lines carry no job id of their own, so they can be told apart
/// only while one job runs.
#[derive(Clone, Debug, Default)]
pub(super) struct RunningJobs(Arc<Mutex<Jobs>>);

#[derive(Debug, Default)]
struct Jobs {
    running: BTreeSet<String>,
    last: Option<(String, Instant)>,
}

impl RunningJobs {
    pub(super) fn sending(&self, message: &ToHandler) {
        if let ToHandler::Run { job, .. } = message {
            self.0.lock().running.insert(job.clone());
        }
    }

    pub(super) fn received(&self, message: &ToSupervisor) {
        if let ToSupervisor::Done { job, .. } | ToSupervisor::Failed { job, .. } = message {
            let mut jobs = self.0.lock();
            if jobs.running.remove(job) {
                jobs.last = Some((job.clone(), Instant::now()));
            }
        }
    }

    /// The one job that runs, or the last one that ran if that was only just now; `None` when more than one runs.
    pub(super) fn only_one(&self) -> Option<String> {
        let jobs = self.0.lock();
        let last = || jobs.last.as_ref().filter(|(_, ended)| ended.elapsed() < LATE_LINES).map(|(job, _)| job);
        match jobs.running.len() {
            0 => last().cloned(),
            1 => jobs.running.first().cloned(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(job: &str) -> ToHandler {
        ToHandler::Run { job: job.to_owned(), attempt: 1, slot: 0, deadline_ms: 1, traceparent: None }
    }

    fn done(job: &str) -> ToSupervisor {
        ToSupervisor::Done { job: job.to_owned(), attempt: 1, refresh: false, records: BTreeMap::new() }
    }

    #[test]
    fn lines_belong_to_the_one_job_that_runs_and_for_a_moment_to_the_last() {
        let jobs = RunningJobs::default();
        assert_eq!(jobs.only_one(), None);
        jobs.sending(&run("a"));
        assert_eq!(jobs.only_one().as_deref(), Some("a"));
        jobs.sending(&run("b"));
        assert_eq!(jobs.only_one(), None);
        jobs.received(&done("a"));
        assert_eq!(jobs.only_one().as_deref(), Some("b"));
        jobs.received(&done("b"));
        assert_eq!(jobs.only_one().as_deref(), Some("b"));
        jobs.0.lock().last = Instant::now().checked_sub(LATE_LINES).map(|ended| ("b".to_owned(), ended));
        assert_eq!(jobs.only_one(), None);
    }
}
