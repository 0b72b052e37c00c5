//! `/ready`, `/live` and `/ping`: answers for load balancers and container platforms.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::HttpState;
use super::limits::STUCK_AFTER;
use crate::heartbeat::Pulse;
use runpod_worker_core::{Snapshot, WorkerState};

#[derive(Debug, Serialize)]
pub(super) struct Probe {
    state: &'static str,
    /// Why the answer is what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// 200 when the worker can take or is running jobs.
pub(super) async fn ready(State(state): State<HttpState>) -> (StatusCode, Json<Probe>) {
    readiness(&state.snapshots.borrow())
}

/// 200 while the dispatcher beats. The handler does not count: a restart of the worker does not repair a handler.
pub(super) async fn live(State(state): State<HttpState>) -> (StatusCode, Json<Probe>) {
    match state.pulse.stuck_for() {
        None => (StatusCode::OK, Json(Probe { state: "live", reason: None })),
        Some(time) => {
            let reason = Some(format!("the dispatcher has been stuck for {} s", time.as_secs()));
            (StatusCode::SERVICE_UNAVAILABLE, Json(Probe { state: "stuck", reason }))
        }
    }
}

/// RunPod's health check of load-balancing endpoints: 200 ready, 204 (which has no body) starting.
pub(super) async fn ping(State(state): State<HttpState>) -> Response {
    ping_alone(State(state.snapshots)).await
}

/// The same, from snapshots alone.
pub(super) async fn ping_alone(State(snapshots): State<watch::Receiver<Snapshot>>) -> Response {
    let snapshot = snapshots.borrow();
    match readiness(&snapshot) {
        (StatusCode::SERVICE_UNAVAILABLE, _) if snapshot.state == WorkerState::Initializing => {
            StatusCode::NO_CONTENT.into_response()
        }
        answer => answer.into_response(),
    }
}

fn readiness(snapshot: &Snapshot) -> (StatusCode, Json<Probe>) {
    let status = if is_ready(snapshot) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Probe { state: snapshot.state.as_str(), reason: snapshot.reason.clone() }))
}

/// Whether jobs are taken, or would be if the queue had any. A worker is not ready while its only handler process is being
/// replaced, even if it holds jobs.
pub(super) fn is_ready(snapshot: &Snapshot) -> bool {
    let takes_jobs = matches!(
        snapshot.state,
        WorkerState::Ready | WorkerState::Idle | WorkerState::Running | WorkerState::Throttled
    );
    takes_jobs && snapshot.serving
}

/// Shows for how long a pulse has not beaten, by reading it at each request.
#[derive(Debug)]
pub struct PulseWatch {
    pulse: Pulse,
    /// The count when it was last seen to change, and the time of that.
    moved: Mutex<(u64, Instant)>,
}

impl PulseWatch {
    /// Starts the watch.
    pub fn new(pulse: Pulse) -> Self {
        let now = (pulse.count(), Instant::now());
        Self { pulse, moved: Mutex::new(now) }
    }

    fn stuck_for(&self) -> Option<Duration> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Option<Duration> {
        let count = self.pulse.count();
        let mut moved = self.moved.lock();
        if moved.0 != count {
            *moved = (count, now);
        }
        Some(now.saturating_duration_since(moved.1)).filter(|still| *still >= STUCK_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_without_a_beat_for_twenty_seconds_is_stuck() {
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
