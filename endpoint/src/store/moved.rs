//! Jobs on their way from one durable store to another: from a data file into a database, and back.

use super::job::Record;
use super::payload::{Part, Payload};
use super::queue::{BatchRecord, Counters};

/// Jobs in one step, and about how many bytes of payloads.
pub(crate) const STEP_JOBS: i64 = 500;
pub(crate) const STEP_BYTES: usize = 8 << 20;

/// An endpoint, without its jobs.
#[derive(Debug)]
pub(crate) struct MovedEndpoint {
    pub(crate) name: String,
    pub(crate) counters: Counters,
    /// Without their jobs.
    pub(crate) batches: Vec<BatchRecord>,
}

/// A job with everything that belongs to it.
#[derive(Debug)]
pub(crate) struct MovedJob {
    pub(crate) record: Record<usize>,
    pub(crate) payloads: Vec<(Part, Payload)>,
    /// Stream items that no client has read, with their numbers.
    pub(crate) items: Vec<(u64, Payload)>,
}

impl MovedJob {
    /// Bytes of its texts.
    pub(crate) fn bytes(record: &Record<usize>) -> usize {
        record.request.payloads().chain(&record.ending.output).sum()
    }
}
