//! Results of the last completed jobs. A queue that has lost an answer hands the same job out again; the result is then
//! delivered a second time instead of being computed a second time.

use std::collections::VecDeque;

use crate::boundary::{FinalResult, JobId};

/// A bounded store of the results of completed jobs, oldest first.
#[derive(Debug)]
pub(crate) struct RecentResults {
    results: VecDeque<(JobId, FinalResult)>,
    bytes: usize,
    max_results: usize,
    max_bytes: usize,
}

impl RecentResults {
    /// An empty store with these limits.
    pub(crate) fn new(max_results: usize, max_bytes: usize) -> Self {
        Self { results: VecDeque::new(), bytes: 0, max_results, max_bytes }
    }

    /// Keeps a result; the oldest ones make room. Errors are not kept: a failed job that arrives again is run again.
    pub(crate) fn keep(&mut self, job: &JobId, result: &FinalResult) {
        let len = size(result);
        if result.result.is_err() || len > self.max_bytes {
            return;
        }
        self.forget(job);
        self.results.push_back((job.clone(), result.clone()));
        self.bytes += len;
        while self.results.len() > self.max_results || self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.results.pop_front() else { break };
            self.bytes -= size(&oldest);
        }
    }

    /// The result of this job, if it is still kept.
    pub(crate) fn get(&self, job: &JobId) -> Option<&FinalResult> {
        self.results.iter().find(|(id, _)| id == job).map(|(_, result)| result)
    }

    fn forget(&mut self, job: &JobId) {
        let index = self.results.iter().position(|(id, _)| id == job);
        if let Some((_, old)) = index.and_then(|index| self.results.remove(index)) {
            self.bytes -= size(&old);
        }
    }
}

fn size(result: &FinalResult) -> usize {
    result.result.as_ref().map_or(0, bytes::Bytes::len)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use runpod_handler_protocol::{ErrorKind, ErrorReport};

    use super::*;

    fn output(len: usize) -> FinalResult {
        FinalResult { result: Ok(Bytes::from(vec![b'1'; len])), streamed: false, stop_pod: false, cost: None }
    }

    #[test]
    fn the_number_and_the_size_of_results_are_bounded() {
        let mut recent = RecentResults::new(64, 1000);
        for index in 0..200 {
            recent.keep(&JobId::from(format!("j{index}")), &output(10));
        }
        assert_eq!(recent.results.len(), 64);
        assert!(recent.get(&"j199".into()).is_some() && recent.get(&"j0".into()).is_none());
        recent.keep(&"big".into(), &output(995));
        assert_eq!((recent.results.len(), recent.bytes), (1, 995));
        recent.keep(&"too big".into(), &output(1001));
        assert!(recent.get(&"too big".into()).is_none());
        recent.keep(&"big".into(), &output(3));
        assert_eq!(recent.bytes, 3);
    }

    #[test]
    fn errors_are_not_kept() {
        let mut recent = RecentResults::new(64, 1000);
        let error = ErrorReport { kind: ErrorKind::InferenceError, message: "no".into(), traceback: String::new() };
        recent.keep(&"j".into(), &FinalResult { result: Err(error), streamed: false, stop_pod: false, cost: None });
        assert!(recent.get(&"j".into()).is_none());
    }
}
