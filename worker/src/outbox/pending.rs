//! A final result on its way to the queue.

use super::spool::{Record, SpoolEntry};

/// A final result that waits to be accepted, and its entry in the spool if there is one.
#[derive(Clone, Debug)]
pub(super) struct PendingResult {
    pub(super) record: Record,
    pub(super) entry: Option<SpoolEntry>,
}
