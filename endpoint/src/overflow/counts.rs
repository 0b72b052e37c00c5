//! What `/metrics` shows of the overflow.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Why late jobs are not sent to the far endpoint, although it takes jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBack {
    /// As many jobs are there as may be.
    InFlight,
    /// The money of the hour is not enough for any of them.
    Budget,
}

impl HeldBack {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::InFlight, Self::Budget];

    /// The value of a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Budget => "budget",
        }
    }
}

/// How jobs left the overflow of one endpoint, what they cost, and how it stands now.
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
    /// The far endpoint did not take a job, or was silent for too long, and has not answered as it should since.
    pub is_away: bool,
    /// Why late jobs wait here; `None` when none does.
    pub held_back: Option<HeldBack>,
}

/// The totals of one endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct EndpointCounts(Arc<Mutex<OverflowTotals>>);

impl EndpointCounts {
    pub(super) fn note(&self, count: impl FnOnce(&mut OverflowTotals)) {
        count(&mut self.0.lock());
    }

    /// Notes whether the far endpoint does what it is asked to.
    pub(super) fn note_far(&self, works: bool) {
        self.note(|totals| totals.is_away = !works);
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
