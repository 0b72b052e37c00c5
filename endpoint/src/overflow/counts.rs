//! What `/metrics` shows of the overflow.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// How jobs left the overflow of one endpoint, and what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OverflowTotals {
    /// Ended with a result.
    pub completed: u64,
    /// Ended with an error of the job.
    pub failed: u64,
    /// Came back to the queue.
    pub returned: u64,
    /// Stopped from this side: cancelled, expired, or over their time.
    pub stopped: u64,
    /// Dollars spent.
    pub dollars: f64,
}

/// The totals of one endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct EndpointCounts(Arc<Mutex<OverflowTotals>>);

impl EndpointCounts {
    pub(super) fn note(&self, count: impl FnOnce(&mut OverflowTotals)) {
        count(&mut self.0.lock());
    }
}

/// The totals of all endpoints that have an overflow, since the program started.
#[derive(Debug, Clone, Default)]
pub struct OverflowCounts(Arc<Mutex<BTreeMap<String, EndpointCounts>>>);

impl OverflowCounts {
    pub(super) fn of(&self, endpoint: &str) -> EndpointCounts {
        self.0.lock().entry(endpoint.to_owned()).or_default().clone()
    }

    /// The totals of an endpoint; `None` without an overflow.
    #[must_use]
    pub fn totals(&self, endpoint: &str) -> Option<OverflowTotals> {
        self.0.lock().get(endpoint).map(|counts| *counts.0.lock())
    }
}
