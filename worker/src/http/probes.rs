//! `/ready`, `/live` and `/ping`: answers for load balancers and container platforms.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::watch;

use super::HttpState;
use crate::core::{Snapshot, WorkerState};
use crate::heartbeat::Pulse;

/// A dispatcher that has not moved for this long is stuck. It moves every two seconds when nothing happens.
const STUCK: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize)]
pub(super) struct Probe {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// 200 when the worker can take or is running jobs.
pub(super) async fn ready(State(state): State<HttpState>) -> (StatusCode, Json<Probe>) {
    let snapshot = state.snapshots.borrow();
    let probe = Probe { state: snapshot.state.as_str(), reason: snapshot.reason.clone() };
    let status = if is_ready(snapshot.state) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(probe))
}

/// 200 while the dispatcher moves. Says nothing about the handler: restarting the worker does not mend a handler.
pub(super) async fn live(State(state): State<HttpState>) -> (StatusCode, Json<Probe>) {
    match state.pulse.stuck_for() {
        None => (StatusCode::OK, Json(Probe { state: "live", reason: None })),
        Some(time) => {
            let reason = Some(format!("the dispatcher has not moved for {} s", time.as_secs()));
            (StatusCode::SERVICE_UNAVAILABLE, Json(Probe { state: "stuck", reason }))
        }
    }
}

/// RunPod's health check of load-balancing endpoints: 200 ready, 204 starting.
pub(super) async fn ping(State(state): State<HttpState>) -> StatusCode {
    ping_alone(State(state.snapshots)).await
}

/// The same, from snapshots alone.
pub(super) async fn ping_alone(State(snapshots): State<watch::Receiver<Snapshot>>) -> StatusCode {
    match snapshots.borrow().state {
        ready if is_ready(ready) => StatusCode::OK,
        WorkerState::Initializing => StatusCode::NO_CONTENT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn is_ready(state: WorkerState) -> bool {
    matches!(state, WorkerState::Ready | WorkerState::Idle | WorkerState::Running | WorkerState::Throttled)
}

/// Tells how long a pulse has stood still, by looking at it whenever somebody asks.
#[derive(Debug)]
pub(super) struct PulseWatch {
    pulse: Pulse,
    /// The count at the last look that saw it move, and when that was.
    moved: Mutex<(u64, Instant)>,
}

impl PulseWatch {
    pub(super) fn new(pulse: Pulse) -> Self {
        let now = (pulse.count(), Instant::now());
        Self { pulse, moved: Mutex::new(now) }
    }

    fn stuck_for(&self) -> Option<Duration> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Option<Duration> {
        let count = self.pulse.count();
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.0 != count {
            *moved = (count, now);
        }
        Some(now.saturating_duration_since(moved.1)).filter(|still| *still >= STUCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_that_stands_still_is_noticed() {
        let pulse = Pulse::default();
        let watch = PulseWatch::new(pulse.clone());
        let start = Instant::now();
        assert_eq!(watch.stuck_at(start + Duration::from_secs(19)), None);
        assert!(watch.stuck_at(start + Duration::from_secs(21)).is_some());
        pulse.beat();
        assert_eq!(watch.stuck_at(start + Duration::from_secs(30)), None);
        assert_eq!(watch.stuck_at(start + Duration::from_secs(49)), None);
        assert!(watch.stuck_at(start + Duration::from_secs(51)).is_some());
    }
}
