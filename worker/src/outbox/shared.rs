//! What the dispatcher's end of the outbox and the delivery tasks share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use runpod_worker_core::JobId;

use super::held_bytes::HeldBytes;
use super::lane::Lane;
use super::line::Line;
use super::spool_handle::SpoolHandle;
use super::stats::Counters;

/// The lanes, and what is counted over all of them.
pub(super) struct Shared {
    pub(super) lanes: Mutex<HashMap<JobId, Arc<Lane>>>,
    pub(super) held_bytes: Arc<HeldBytes>,
    pub(super) line: Arc<Line>,
    pub(super) counters: Counters,
    pub(super) spool: Option<SpoolHandle>,
}

impl Shared {
    /// Forgets a lane that has ended.
    pub(super) fn close(&self, lane: &Arc<Lane>) {
        lane.release_all(&self.held_bytes);
        if let Entry::Occupied(entry) = self.lanes.lock().entry(lane.job.clone())
            && Arc::ptr_eq(entry.get(), lane)
        {
            entry.remove();
        }
    }
}
