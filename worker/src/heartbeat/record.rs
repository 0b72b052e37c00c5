//! How the pings went.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::FailureState;
use crate::queue::RequestError;

/// How the pings went, for health and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatStats {
    /// Time since the platform last answered a ping with a success; `None` before the first success.
    pub since_last_ok: Option<Duration>,
    /// Time since the last success or, before the first, since the first ping was due; `None` without a heartbeat.
    pub age: Option<Duration>,
    /// Pings answered with a success.
    pub sent: u64,
    /// Pings that failed after all their tries.
    pub failures: u64,
    /// Pings that failed since the last success.
    pub failures_in_a_row: u64,
}

#[derive(Debug, Default)]
struct State {
    begun: Option<Instant>,
    last_ok: Option<Instant>,
    stats: HeartbeatStats,
    failing: FailureState<(&'static str, u16)>,
}

/// The outcomes of all pings so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<State>>);

impl Record {
    /// Records that the first ping is due.
    pub(super) fn begin(&self) {
        self.0.lock().begun = Some(Instant::now());
    }

    /// Records the outcome of a ping, and logs it when it differs from the last one.
    pub(super) fn note(&self, result: &Result<(), RequestError>) {
        let mut state = self.0.lock();
        match result {
            Ok(()) => {
                state.last_ok = Some(Instant::now());
                state.stats.sent += 1;
                state.stats.failures_in_a_row = 0;
                if state.failing.succeed() {
                    tracing::info!("The queue accepts heartbeats again.");
                }
            }
            Err(error) => {
                state.stats.failures += 1;
                state.stats.failures_in_a_row += 1;
                if state.failing.fail(error.kind()) {
                    tracing::warn!(
                        %error,
                        "Heartbeats do not arrive: the queue may give the jobs of this worker to another one."
                    );
                }
            }
        }
    }
}

/// Shows how the pings go, also after the heartbeat has ended.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatMonitor(pub(super) Record);

impl HeartbeatMonitor {
    /// How the pings went until now.
    pub fn stats(&self) -> HeartbeatStats {
        let state = self.0.0.lock();
        let since_last_ok = state.last_ok.map(|at| at.elapsed());
        let age = since_last_ok.or_else(|| state.begun.map(|at| at.elapsed()));
        HeartbeatStats { since_last_ok, age, ..state.stats }
    }
}
