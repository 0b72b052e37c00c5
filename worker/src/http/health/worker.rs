//! `worker` in `/health`: state, slots, processes, polls, pings, deliveries, versions, cost.

use std::collections::BTreeMap;
use std::time::Duration;

use runpod_handler_protocol::PROTOCOL_VERSION;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use super::batching::Batching;
use crate::heartbeat::HeartbeatStats;
use crate::http::{HttpState, probes};
use crate::outbox::{OutboxStats, SpoolStats};
use runpod_worker_core::{Exit, GpuUse, JobCounts, PollBlocker, ProcessView, SlotCounts, Snapshot};
#[cfg(test)]
use runpod_worker_core::{PollAnswer, WorkerState};

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(super) struct Worker {
    /// `RUNPOD_POD_ID`, or a random one.
    id: String,
    #[cfg_attr(test, schemars(extend("enum" = WorkerState::ALL.map(WorkerState::as_str))))]
    state: &'static str,
    /// As `/ready`: jobs are taken, or would be if the queue had any.
    ready: bool,
    /// Why it is not ready, or takes no jobs although it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    versions: Versions,
    /// The handler, once it has introduced itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    handler: Option<Handler>,
    /// Counts that the platform's document does not have.
    jobs: MoreJobs,
    /// Failed jobs by kind of error; kinds that have not occurred are absent.
    failures: BTreeMap<&'static str, u64>,
    slots: Slots,
    /// Handler processes started again, all of them together.
    restarts: u32,
    processes: Vec<Process>,
    last_poll: Poll,
    last_ping: Ping,
    outbox: Outbox,
    /// Time of handler processes, each standing for one GPU, by what it was good for. Jobs are added when they end.
    gpu_seconds: ByUse,
    /// Only with `--price-per-hour`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
}

/// What is at work here.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct Versions {
    worker: &'static str,
    /// Of the protocol between worker and handler.
    protocol: u32,
    /// `runpod-handler-sdk` in the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    sdk: Option<String>,
    /// As the handler's checks found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    libtorch: Option<String>,
    /// As the handler's checks found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cuda: Option<String>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct Handler {
    name: String,
    version: String,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct MoreJobs {
    /// Of the failed ones, ended by their deadline.
    timed_out: u64,
    /// Stopped by the platform.
    cancelled: u64,
    /// Left to another worker at shutdown.
    handed_back: u64,
    /// Finished, waiting to be accepted by the platform.
    delivering: usize,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct Slots {
    /// Waiting for a job.
    ready: usize,
    /// Running a job.
    busy: usize,
    /// Running a job that was asked to stop.
    lingering: usize,
    /// Building their model.
    loading: usize,
    /// Without a process.
    absent: usize,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Process {
    id: usize,
    phase: &'static str,
    /// While it lives.
    pid: Option<u32>,
    /// Where its models live, once they are loaded.
    device: Option<String>,
    /// Slots that run a job.
    busy: usize,
    restarts: u32,
    /// Absent unless the handler runs several jobs at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    batching: Option<Batching>,
    /// How its last incarnation ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_exit: Option<LastExit>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct LastExit {
    reason: String,
    out_of_host_memory: bool,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Poll {
    /// One is under way now; the queue holds it until there is a job.
    in_flight: bool,
    /// Why no job is asked for; `null` while one is.
    #[cfg_attr(test, schemars(extend("enum" = poll_blockers())))]
    blocked_by: Option<&'static str>,
    /// Since the last one ended; `null` before the first.
    seconds_ago: Option<f64>,
    /// How it ended.
    #[cfg_attr(test, schemars(extend("enum" = poll_outcomes())))]
    outcome: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Ping {
    /// Since the platform last accepted one; `null` before the first.
    seconds_ago: Option<f64>,
    sent: u64,
    failures: u64,
    failures_in_a_row: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Outbox {
    held_bytes: usize,
    retries: u64,
    /// Final results that the queue refused for good, or that grew too old.
    refused_results: u64,
    /// Streamed items given up.
    lost_chunks: u64,
    /// The queue refuses the key.
    unauthorized: bool,
    /// Absent when results are kept in memory only.
    #[serde(skip_serializing_if = "Option::is_none")]
    spool: Option<Spool>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Spool {
    #[cfg_attr(test, schemars(extend("enum" = ["ok", "degraded"])))]
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// On disk now.
    results: u64,
    /// Left by an earlier run. Each may have reached the queue before, so it may have been posted twice.
    recovered: u64,
    /// Files that could not be read.
    set_aside: u64,
    /// Results that could not be written.
    failures: u64,
    /// Results kept for a person: see `runpod-worker dead-letters`.
    dead_letters: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct ByUse {
    useful: f64,
    failed: f64,
    cancelled: f64,
    warm_up: f64,
    idle: f64,
}

/// In dollars, since the worker started.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase")]
struct Cost {
    per_hour: f64,
    total: f64,
    /// `total` divided by the jobs that completed; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_job: Option<f64>,
    by_use: ByUse,
}

impl Worker {
    pub(super) fn new(state: &HttpState, snapshot: &Snapshot) -> Self {
        let JobCounts { timed_out, cancelled, handed_back, delivering, .. } = snapshot.jobs;
        let SlotCounts { ready, busy, lingering, loading, absent } = snapshot.slots;
        let handler = snapshot.manifest.as_deref();
        let processes: Vec<Process> = snapshot.processes.iter().map(process).collect();
        Self {
            id: state.identity.worker_id.clone(),
            state: snapshot.state.as_str(),
            ready: probes::is_ready(snapshot),
            reason: snapshot.reason.clone(),
            versions: versions(snapshot),
            handler: handler.map(|manifest| Handler { name: manifest.name.clone(), version: manifest.version.clone() }),
            jobs: MoreJobs { timed_out, cancelled, handed_back, delivering },
            failures: snapshot.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            slots: Slots { ready, busy, lingering, loading, absent },
            restarts: processes.iter().map(|process| process.restarts).sum(),
            processes,
            last_poll: poll(snapshot, state.started.elapsed()),
            last_ping: ping(state.heartbeat.stats()),
            outbox: outbox(state.outbox.stats()),
            gpu_seconds: by_use(|what| snapshot.gpu_time.of(what).as_secs_f64()),
            cost: cost(snapshot),
        }
    }
}

fn versions(snapshot: &Snapshot) -> Versions {
    let told = &snapshot.versions;
    Versions {
        worker: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL_VERSION,
        sdk: told.sdk.clone(),
        libtorch: told.libtorch.clone(),
        cuda: told.cuda.clone(),
    }
}

fn poll(snapshot: &Snapshot, uptime: Duration) -> Poll {
    let (ended, outcome) = snapshot.poll.last.unzip();
    let seconds_ago = ended.map(|ended| uptime.saturating_sub(ended.0).as_secs_f64());
    let blocked_by = snapshot.poll.blocked_by.map(PollBlocker::as_str);
    Poll { in_flight: snapshot.poll.in_flight, blocked_by, seconds_ago, outcome }
}

fn ping(stats: HeartbeatStats) -> Ping {
    Ping {
        seconds_ago: stats.since_last_ok.map(|time| time.as_secs_f64()),
        sent: stats.sent,
        failures: stats.failures,
        failures_in_a_row: stats.failures_in_a_row,
    }
}

fn outbox(stats: OutboxStats) -> Outbox {
    Outbox {
        held_bytes: stats.held_bytes,
        retries: stats.retries,
        refused_results: stats.dead_letters,
        lost_chunks: stats.lost_chunks,
        unauthorized: stats.unauthorized,
        spool: stats.spool.map(spool),
    }
}

fn spool(stats: SpoolStats) -> Spool {
    let SpoolStats { results, recovered, set_aside, failures, dead_letters, trouble } = stats;
    let state = if trouble.is_some() { "degraded" } else { "ok" };
    Spool { state, reason: trouble, results, recovered, set_aside, failures, dead_letters }
}

fn process(view: &ProcessView) -> Process {
    Process {
        id: view.id.0,
        phase: view.phase,
        pid: view.pid,
        device: view.device.clone(),
        busy: view.busy,
        restarts: view.incarnation.0.saturating_sub(1),
        batching: view.batching.as_ref().map(Batching::from),
        last_exit: view.last_exit.as_ref().map(last_exit),
    }
}

/// Without the last lines: they are the user's and belong into the log.
fn last_exit(exit: &Exit) -> LastExit {
    LastExit { reason: exit.status.to_string(), out_of_host_memory: exit.host_oom }
}

fn by_use(of: impl Fn(GpuUse) -> f64) -> ByUse {
    ByUse {
        useful: of(GpuUse::Useful),
        failed: of(GpuUse::Failed),
        cancelled: of(GpuUse::Cancelled),
        warm_up: of(GpuUse::WarmUp),
        idle: of(GpuUse::Idle),
    }
}

fn cost(snapshot: &Snapshot) -> Option<Cost> {
    let price = snapshot.price?;
    let total = price.of(snapshot.gpu_time.total());
    let completed = snapshot.jobs.completed;
    Some(Cost {
        per_hour: price.per_hour,
        total,
        per_job: (completed > 0).then(|| total / completed as f64),
        by_use: by_use(|what| price.of(snapshot.gpu_time.of(what))),
    })
}

#[cfg(test)]
fn poll_outcomes() -> Vec<Option<&'static str>> {
    PollAnswer::OUTCOMES.into_iter().map(Some).chain([None]).collect()
}

#[cfg(test)]
fn poll_blockers() -> Vec<Option<&'static str>> {
    PollBlocker::ALL.map(PollBlocker::as_str).map(Some).into_iter().chain([None]).collect()
}
