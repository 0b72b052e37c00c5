//! What a start finds in the spool.

use super::entry::SpoolEntry;
use super::record::Record;

/// The undelivered results of an earlier run.
#[derive(Debug, Default)]
pub struct Undelivered {
    /// Results to deliver, oldest first, one per job.
    pub results: Vec<(SpoolEntry, Record)>,
    /// Files that are not results of this worker.
    pub set_aside: u64,
}
