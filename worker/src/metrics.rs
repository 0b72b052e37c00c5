//! Every metric of the worker, as methods with typed labels.
//!
//! Two families: `runpod_*` describes the worker and its queue, `inference_*` with `executor_*` and `job_queue_depth`
//! describes the model. All of it follows from the core's reports and snapshots, so it cannot disagree with the log or
//! with `/health`. Label values come from closed sets or from the handler's manifest: no job id, no free text.

mod runtime;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use runpod_handler_protocol::{ErrorKind, ErrorReport, Manifest};

use crate::core::snapshot::{Snapshot, WorkerState};
use crate::core::{Epoch, Exit, ExitReason, JobStatus, PollAnswer, ProcessId, Report};

pub use runtime::RuntimeMetrics;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds; part of the interface of `inference_latency_seconds`.
const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Seconds; jobs, queues and model loads take from milliseconds to half an hour.
const LONG_BUCKETS: [f64; 14] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0];

/// States that a job enters before it ends; the ends are [`JobStatus`]'s words.
const IN_QUEUE: &str = "in_queue";
const IN_PROGRESS: &str = "in_progress";
const CATEGORIES: [&str; 4] = ["validation", "timeout", "oom", "unknown"];
const POLL_OUTCOMES: [&str; 5] = ["jobs", "empty", "throttled", "failed", "aborted"];

/// Names in the manifest are the handler author's; what is longer is cut.
const MAX_LABEL_LEN: usize = 64;
/// Until tenants exist.
const TENANT: &str = "default";

/// How a heartbeat ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The platform answered.
    Ok,
    /// It could not be reached or answered with an error.
    Failed,
}

impl HeartbeatOutcome {
    const ALL: [Self; 2] = [Self::Ok, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

/// Declares label sets of one name, whose values come from closed sets.
macro_rules! closed_label {
    ($($set:ident { $name:ident })*) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $set {
            $name: &'static str,
        }
    )*};
}

closed_label! {
    Status { status }
    Category { category }
    State { state }
    Outcome { outcome }
    Cause { cause }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Device {
    device: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: String,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    model: String,
    version: String,
    tenant: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestError {
    model: String,
    version: String,
    error_type: &'static str,
    tenant: &'static str,
}

type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// All metrics and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,

    jobs: Family<Status, Counter>,
    job_duration: Histogram,
    job_queue_time: Histogram,
    job_errors: Family<Category, Counter>,
    queue_depth: Gauge,
    worker_state: Family<State, Gauge>,
    slots: Family<State, Gauge>,
    polls: Family<Outcome, Counter>,
    heartbeats: Family<Outcome, Counter>,
    restarts: Family<Cause, Counter>,
    recycles: Family<Cause, Counter>,
    results_delivered: Family<Outcome, Counter>,
    load_time: Histogram,

    requests: Family<Request, Counter>,
    request_errors: Family<RequestError, Counter>,
    latency: Histograms<Request>,
    executor_inflight: Family<Device, Gauge>,
    executor_timeouts: Family<Device, Counter>,
    model_queue_depth: Family<Model, Gauge>,

    /// From the handler's manifest, once it is known.
    model: OnceLock<Model>,
    /// Why a process is going to be started again; one entry per process at most.
    restart_causes: Mutex<BTreeMap<ProcessId, &'static str>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero. Series whose labels are known in advance exist from the start, so that rates have a beginning.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let latency: Histograms<Request> = Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        let long = || Histogram::new(LONG_BUCKETS);
        let metrics = Self {
            jobs: register(r, "runpod_jobs", "Jobs that entered a state", Family::default()),
            job_duration: register(r, "runpod_job_duration_seconds", "Time from start to end of a job", long()),
            job_queue_time: register(r, "runpod_job_queue_seconds", "Time from taking a job to starting it", long()),
            job_errors: register(r, "runpod_job_errors", "Jobs that failed, by category", Family::default()),
            queue_depth: register(r, "runpod_queue_depth", "Jobs held without a slot", Gauge::default()),
            worker_state: register(r, "runpod_worker_state", "1 for the worker's state", Family::default()),
            slots: register(r, "runpod_worker_slots", "Slots by state", Family::default()),
            polls: register(r, "runpod_worker_polls", "Polls of the queue, by outcome", Family::default()),
            heartbeats: register(r, "runpod_worker_heartbeats", "Heartbeats, by outcome", Family::default()),
            restarts: register(r, "runpod_worker_handler_restarts", "Handler restarts, by cause", Family::default()),
            recycles: register(
                r,
                "runpod_worker_recycles",
                "Healthy handler processes replaced between jobs, by cause",
                Family::default(),
            ),
            results_delivered: register(
                r,
                "runpod_worker_results_delivered",
                "Results the platform has accepted, or refused for good",
                Family::default(),
            ),
            load_time: register(r, "runpod_worker_load_seconds", "Time to load the model of a slot", long()),
            requests: register(r, "inference_requests", "Jobs taken, counted before execution", Family::default()),
            request_errors: register(r, "inference_errors", "Jobs that failed, by error type", Family::default()),
            latency: register(r, "inference_latency_seconds", "Time to execute a job", latency),
            executor_inflight: register(r, "executor_inflight", "Jobs in execution", Family::default()),
            executor_timeouts: register(r, "executor_timeouts", "Jobs ended by their deadline", Family::default()),
            model_queue_depth: register(r, "job_queue_depth", "Jobs held without a slot", Family::default()),
            registry,
            model: OnceLock::new(),
            restart_causes: Mutex::default(),
        };
        metrics.create_known_series();
        metrics
    }

    fn create_known_series(&self) {
        let ends =
            [JobStatus::Completed, JobStatus::Failed, JobStatus::TimedOut, JobStatus::Cancelled, JobStatus::HandedBack];
        for status in [IN_QUEUE, IN_PROGRESS].into_iter().chain(ends.map(JobStatus::as_str)) {
            drop(self.jobs.get_or_create(&Status { status }));
        }
        for category in CATEGORIES {
            drop(self.job_errors.get_or_create(&Category { category }));
        }
        for outcome in POLL_OUTCOMES {
            drop(self.polls.get_or_create(&Outcome { outcome }));
        }
        for outcome in HeartbeatOutcome::ALL.map(HeartbeatOutcome::as_str) {
            drop(self.heartbeats.get_or_create(&Outcome { outcome }));
        }
        for outcome in ["accepted", "refused"] {
            drop(self.results_delivered.get_or_create(&Outcome { outcome }));
        }
    }

    /// Adds metrics that are looked up when they are asked for.
    pub fn add(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// The OpenMetrics text of everything, to be served with [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Only what writing into a string can report: nothing in practice.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(8 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A poll has ended.
    pub fn poll(&self, answer: &PollAnswer) {
        let outcome = match answer {
            PollAnswer::Jobs(_) => "jobs",
            PollAnswer::Nothing => "empty",
            PollAnswer::Throttled { .. } => "throttled",
            PollAnswer::Failed { .. } => "failed",
            PollAnswer::Aborted => "aborted",
        };
        self.polls.get_or_create(&Outcome { outcome }).inc();
    }

    /// A heartbeat has ended.
    pub fn heartbeat(&self, outcome: HeartbeatOutcome) {
        self.heartbeats.get_or_create(&Outcome { outcome: outcome.as_str() }).inc();
    }

    /// Counts what a report tells.
    pub fn observe(&self, report: &Report) {
        match report {
            Report::JobTaken { .. } => {
                self.count_job(IN_QUEUE);
                self.requests.get_or_create(&self.request()).inc();
            }
            // A second run of the same job is no second job.
            Report::JobStarted { attempt: 1, waited, .. } => {
                self.count_job(IN_PROGRESS);
                self.job_queue_time.observe(waited.as_secs_f64());
            }
            Report::JobFinished { status, error, run_time, device, .. } => {
                self.job_finished(*status, error.as_ref(), *run_time, device.as_deref());
            }
            Report::JobDelivered { accepted, .. } => {
                let outcome = if *accepted { "accepted" } else { "refused" };
                self.results_delivered.get_or_create(&Outcome { outcome }).inc();
            }
            Report::SlotReady { load_time, .. } => self.load_time.observe(load_time.as_secs_f64()),
            Report::ProcessKilled { process, .. } => self.process_ended(*process, "killed"),
            Report::ProcessExited { process, exit, expected } => {
                self.process_ended(*process, if *expected { "planned" } else { exit_cause(exit) });
            }
            Report::StartFailed { process, .. } => self.process_ended(*process, "start_failed"),
            Report::ProcessStarting { process, epoch } if *epoch > Epoch(1) => {
                let cause = self.restart_causes().remove(process).unwrap_or("unknown");
                self.restarts.get_or_create(&Cause { cause }).inc();
            }
            Report::ProcessRecycled { reason, .. } => {
                self.recycles.get_or_create(&Cause { cause: reason.as_str() }).inc();
            }
            _ => {}
        }
    }

    /// Sets all gauges.
    pub fn publish(&self, snapshot: &Snapshot) {
        if let Some(manifest) = &snapshot.manifest {
            self.model.get_or_init(|| model_labels(manifest));
        }
        for state in WorkerState::ALL {
            let value = i64::from(state == snapshot.state);
            self.worker_state.get_or_create(&State { state: state.as_str() }).set(value);
        }
        let slots = &snapshot.slots;
        for (state, count) in [
            ("ready", slots.ready),
            ("busy", slots.busy),
            ("lingering", slots.lingering),
            ("loading", slots.loading),
            ("absent", slots.absent),
        ] {
            self.slots.get_or_create(&State { state }).set(gauge(count));
        }
        let depth = gauge(snapshot.jobs.in_queue);
        self.queue_depth.set(depth);
        if let Some(model) = self.model.get() {
            self.model_queue_depth.get_or_create(model).set(depth);
        }
        // Several processes may share a device, such as the CPU.
        let mut busy: BTreeMap<&str, usize> = BTreeMap::new();
        for process in &snapshot.processes {
            if let Some(device) = &process.device {
                *busy.entry(device_label(device)).or_default() += process.busy;
            }
        }
        for (device, count) in busy {
            let device = Device { device: device.to_owned() };
            drop(self.executor_timeouts.get_or_create(&device));
            self.executor_inflight.get_or_create(&device).set(gauge(count));
        }
    }

    fn job_finished(&self, status: JobStatus, error: Option<&ErrorReport>, run_time: Duration, device: Option<&str>) {
        self.count_job(status.as_str());
        let request = self.request();
        if !run_time.is_zero() {
            self.job_duration.observe(run_time.as_secs_f64());
            if !matches!(status, JobStatus::Cancelled | JobStatus::HandedBack) {
                self.latency.get_or_create(&request).observe(run_time.as_secs_f64());
            }
        }
        if status == JobStatus::TimedOut {
            let device = device.map_or("unknown", device_label).to_owned();
            self.executor_timeouts.get_or_create(&Device { device }).inc();
        }
        if let (JobStatus::Failed | JobStatus::TimedOut, Some(ErrorReport { kind, .. })) = (status, error) {
            self.job_errors.get_or_create(&Category { category: category(*kind) }).inc();
            let Request { model, version, tenant } = request;
            let labels = RequestError { model, version, error_type: error_type(*kind), tenant };
            self.request_errors.get_or_create(&labels).inc();
        }
    }

    fn count_job(&self, status: &'static str) {
        self.jobs.get_or_create(&Status { status }).inc();
    }

    /// The first cause wins: a process that was killed exits afterwards.
    fn process_ended(&self, process: ProcessId, cause: &'static str) {
        self.restart_causes().entry(process).or_insert(cause);
    }

    fn request(&self) -> Request {
        let unknown = || Model { model: "unknown".to_owned(), version: "unknown".to_owned() };
        let Model { model, version } = self.model.get().cloned().unwrap_or_else(unknown);
        Request { model, version, tenant: TENANT }
    }

    fn restart_causes(&self) -> MutexGuard<'_, BTreeMap<ProcessId, &'static str>> {
        self.restart_causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn register<M>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M
where
    M: Clone + EncodeMetric + fmt::Debug + Send + Sync + 'static,
{
    registry.register(name, help, metric.clone());
    metric
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn model_labels(manifest: &Manifest) -> Model {
    let cut = |text: &str| text.chars().take(MAX_LABEL_LEN).collect();
    Model { model: cut(&manifest.name), version: cut(&manifest.version) }
}

/// Handlers name their device freely; only the usual names become labels.
fn device_label(name: &str) -> &str {
    let index = name.strip_prefix("cuda:").and_then(|index| index.parse::<u8>().ok());
    if matches!(name, "cpu" | "cuda" | "mps") || index.is_some() { name } else { "other" }
}

fn category(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Validation | ErrorKind::ModelNotFound => "validation",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Oom => "oom",
        _ => "unknown",
    }
}

fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ModelNotFound => "model_not_found",
        ErrorKind::Timeout => "timeout",
        _ => "inference_error",
    }
}

fn exit_cause(exit: &Exit) -> &'static str {
    match exit.status {
        _ if exit.host_oom => "oom",
        ExitReason::Signal(_) => "signal",
        ExitReason::Code(_) => "exit",
        ExitReason::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests;
