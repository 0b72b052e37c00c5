//! `/health`: RunPod's eleven counters for this one worker, and what an operator wants to know beyond them.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::HttpState;
use super::runtime::{Runtime, runtime};
use crate::core::{Exit, JobCounts, ProcessView, SlotCounts, Snapshot, WorkerState};
use crate::heartbeat::HeartbeatStats;
use crate::outbox::{OutboxStats, SpoolStats};

#[derive(Debug, Serialize)]
pub(super) struct Health {
    jobs: Jobs,
    workers: Workers,
    worker: Worker,
    runtime: Runtime,
}

/// As on the platform.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Jobs {
    completed: u64,
    failed: u64,
    in_progress: usize,
    in_queue: usize,
    retried: u64,
}

/// As on the platform; here each is 0 or 1. `ready` always equals `idle`, as it does there.
#[derive(Debug, Default, Serialize)]
struct Workers {
    idle: u8,
    initializing: u8,
    ready: u8,
    running: u8,
    throttled: u8,
    unhealthy: u8,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Worker {
    id: String,
    version: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handler: Option<Handler>,
    jobs: MoreJobs,
    slots: Slots,
    processes: Vec<Process>,
    outbox: Outbox,
    last_ping: Ping,
}

#[derive(Debug, Serialize)]
struct Handler {
    name: String,
    version: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MoreJobs {
    timed_out: u64,
    cancelled: u64,
    handed_back: u64,
    delivering: usize,
}

#[derive(Debug, Serialize)]
struct Slots {
    ready: usize,
    busy: usize,
    lingering: usize,
    loading: usize,
    absent: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    id: usize,
    phase: &'static str,
    pid: Option<u32>,
    device: Option<String>,
    busy: usize,
    restarts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_exit: Option<LastExit>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LastExit {
    reason: String,
    out_of_host_memory: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outbox {
    held_bytes: usize,
    retries: u64,
    refused_results: u64,
    lost_chunks: u64,
    unauthorized: bool,
    /// Absent when results are kept in memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    spool: Option<Spool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spool {
    /// `ok`, or `degraded` with a reason.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    results: u64,
    recovered: u64,
    set_aside: u64,
    failures: u64,
    dead_letters: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ping {
    seconds_ago: Option<f64>,
    sent: u64,
    failures: u64,
    failures_in_a_row: u64,
}

pub(super) async fn health(State(state): State<HttpState>) -> Json<Health> {
    let snapshot = state.snapshots.borrow().clone();
    Json(Health {
        jobs: jobs(snapshot.jobs),
        workers: workers(snapshot.state),
        worker: worker(&state.identity.worker_id, &snapshot, state.outbox.stats(), state.heartbeat.stats()),
        runtime: runtime(&state.runtime, state.started.elapsed(), &snapshot),
    })
}

fn jobs(counts: JobCounts) -> Jobs {
    Jobs {
        completed: counts.completed,
        failed: counts.failed,
        in_progress: counts.in_progress,
        in_queue: counts.in_queue,
        retried: counts.retried,
    }
}

fn workers(state: WorkerState) -> Workers {
    let none = Workers::default();
    match state {
        WorkerState::Initializing => Workers { initializing: 1, ..none },
        WorkerState::Ready | WorkerState::Idle => Workers { idle: 1, ready: 1, ..none },
        WorkerState::Running => Workers { running: 1, ..none },
        WorkerState::Throttled => Workers { throttled: 1, ..none },
        WorkerState::Unhealthy => Workers { unhealthy: 1, ..none },
        WorkerState::Draining => none,
    }
}

fn worker(id: &str, snapshot: &Snapshot, outbox: OutboxStats, heartbeat: HeartbeatStats) -> Worker {
    let manifest = snapshot.manifest.as_deref();
    let JobCounts { timed_out, cancelled, handed_back, delivering, .. } = snapshot.jobs;
    let SlotCounts { ready, busy, lingering, loading, absent } = snapshot.slots;
    Worker {
        id: id.to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        state: snapshot.state.as_str(),
        reason: snapshot.reason.clone(),
        handler: manifest.map(|manifest| Handler { name: manifest.name.clone(), version: manifest.version.clone() }),
        jobs: MoreJobs { timed_out, cancelled, handed_back, delivering },
        slots: Slots { ready, busy, lingering, loading, absent },
        processes: snapshot.processes.iter().map(process).collect(),
        outbox: Outbox {
            held_bytes: outbox.held_bytes,
            retries: outbox.retries,
            refused_results: outbox.dead_letters,
            lost_chunks: outbox.lost_chunks,
            unauthorized: outbox.unauthorized,
            spool: outbox.spool.map(spool),
        },
        last_ping: Ping {
            seconds_ago: heartbeat.since_last_ok.map(|time| time.as_secs_f64()),
            sent: heartbeat.sent,
            failures: heartbeat.failures,
            failures_in_a_row: heartbeat.failures_in_a_row,
        },
    }
}

fn spool(stats: SpoolStats) -> Spool {
    let SpoolStats { results, recovered, set_aside, failures, buried, trouble } = stats;
    let state = if trouble.is_some() { "degraded" } else { "ok" };
    Spool { state, reason: trouble, results, recovered, set_aside, failures, dead_letters: buried }
}

fn process(view: &ProcessView) -> Process {
    Process {
        id: view.id.0,
        phase: view.phase,
        pid: view.pid,
        device: view.device.clone(),
        busy: view.busy,
        restarts: view.epoch.0.saturating_sub(1),
        last_exit: view.last_exit.as_ref().map(last_exit),
    }
}

/// Without the last lines: they are the user's and belong into the log.
fn last_exit(exit: &Exit) -> LastExit {
    LastExit { reason: exit.status.to_string(), out_of_host_memory: exit.host_oom }
}
