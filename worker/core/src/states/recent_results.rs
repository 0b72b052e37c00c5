//! Results of the last completed jobs. A queue that lost an answer hands the same job out again; the result is then
//! delivered a second time instead of being computed a second time.

use crate::boundary::{FinalResult, JobId};
use std::collections::VecDeque;

const MAX_RESULTS: usize = 64;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A bounded memory of completed jobs, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    results: VecDeque<(JobId, FinalResult)>,
    bytes: usize,
}

impl Recent {
    /// Keeps a result; the oldest ones make room. Errors are not kept: a failed job that comes again is to be run again.
    pub(crate) fn keep(&mut self, job: &JobId, result: &FinalResult) {
        let len = size(result);
        if result.result.is_err() || len > MAX_BYTES {
            return;
        }
        self.forget(job);
        self.results.push_back((job.clone(), result.clone()));
        self.bytes += len;
        while self.results.len() > MAX_RESULTS || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.results.pop_front() else { break };
            self.bytes -= size(&oldest);
        }
    }

    /// The result of this job, if it is still known.
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
    fn is_bounded_in_number_and_bytes() {
        let mut recent = Recent::default();
        for index in 0..200 {
            recent.keep(&JobId::from(format!("j{index}")), &output(10));
        }
        assert_eq!(recent.results.len(), MAX_RESULTS);
        assert!(recent.get(&"j199".into()).is_some() && recent.get(&"j0".into()).is_none());
        recent.keep(&"big".into(), &output(MAX_BYTES - 5));
        assert_eq!((recent.results.len(), recent.bytes), (1, MAX_BYTES - 5));
        recent.keep(&"too big".into(), &output(MAX_BYTES + 1));
        assert!(recent.get(&"too big".into()).is_none());
        recent.keep(&"big".into(), &output(3));
        assert_eq!(recent.bytes, 3);
    }

    #[test]
    fn errors_are_not_kept() {
        let mut recent = Recent::default();
        let error = ErrorReport { kind: ErrorKind::InferenceError, message: "no".into(), traceback: String::new() };
        recent.keep(&"j".into(), &FinalResult { result: Err(error), streamed: false, stop_pod: false, cost: None });
        assert!(recent.get(&"j".into()).is_none());
    }
}
