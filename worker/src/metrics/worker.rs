//! The worker itself: state, slots, polls, heartbeats, age.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::HeartbeatOutcome;
use super::labels::{Bare, Measure, Outcome, State, count, register};
use runpod_worker_core::{PollAnswer, SlotCounts};
use runpod_worker_core::{Snapshot, WorkerState};

/// Jobs in one answer of the queue: at most as many as an async handler can run at once.
const POLL_BUCKETS: [f64; 14] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

#[derive(Debug)]
pub(super) struct WorkerMetrics {
    state: Family<State, Gauge>,
    slots: Family<State, Gauge>,
    polls: Family<Outcome, Counter>,
    jobs_per_poll: Histogram,
    heartbeats: Family<Outcome, Counter>,
    heartbeat_age: Family<Bare, Measure>,
    uptime: Measure,
}

impl WorkerMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("runpod_worker", "The worker program", info);
        let metrics = Self {
            state: register(r, "runpod_worker_state", "1 for the worker's state", Family::default()),
            slots: register(r, "runpod_worker_slots", "Slots by state", Family::default()),
            polls: register(r, "runpod_worker_polls", "Polls of the queue, by outcome", Family::default()),
            jobs_per_poll: register(
                r,
                "runpod_worker_jobs_per_poll",
                "Jobs in one answer of the queue, of those that brought any",
                Histogram::new(POLL_BUCKETS),
            ),
            heartbeats: register(r, "runpod_worker_heartbeats", "Heartbeats, by outcome", Family::default()),
            heartbeat_age: register(
                r,
                "runpod_worker_heartbeat_age_seconds",
                "Time since the platform last accepted a heartbeat, or since the start when it has not; absent when no \
                 heartbeat is configured",
                Family::default(),
            ),
            uptime: register(r, "runpod_worker_uptime_seconds", "Time since the worker started", Measure::default()),
        };
        for outcome in PollAnswer::OUTCOMES {
            drop(metrics.polls.get_or_create(&Outcome { outcome }));
        }
        for outcome in HeartbeatOutcome::ALL.map(HeartbeatOutcome::as_str) {
            drop(metrics.heartbeats.get_or_create(&Outcome { outcome }));
        }
        metrics
    }

    pub(super) fn poll(&self, answer: &PollAnswer) {
        self.polls.get_or_create(&Outcome { outcome: answer.outcome() }).inc();
        if let PollAnswer::Jobs(jobs) = answer {
            self.jobs_per_poll.observe(jobs.len() as f64);
        }
    }

    pub(super) fn heartbeat(&self, outcome: HeartbeatOutcome) {
        self.heartbeats.get_or_create(&Outcome { outcome: outcome.as_str() }).inc();
    }

    pub(super) fn publish(&self, snapshot: &Snapshot) {
        for state in WorkerState::ALL {
            let value = i64::from(state == snapshot.state);
            self.state.get_or_create(&State { state: state.as_str() }).set(value);
        }
        let SlotCounts { ready, busy, lingering, loading, absent } = snapshot.slots;
        for (state, slots) in
            [("ready", ready), ("busy", busy), ("lingering", lingering), ("loading", loading), ("absent", absent)]
        {
            self.slots.get_or_create(&State { state }).set(count(slots));
        }
    }

    pub(super) fn sample(&self, uptime: Duration, heartbeat_age: Option<Duration>) {
        self.uptime.set(uptime.as_secs_f64());
        if let Some(age) = heartbeat_age {
            self.heartbeat_age.get_or_create(&[]).set(age.as_secs_f64());
        }
    }
}
