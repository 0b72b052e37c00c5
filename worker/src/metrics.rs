//! Every metric of the worker. Callers say what happened, never which metric: the two families below follow from core
//! reports and snapshots. No label ever holds a job id or free text, so the number of series is bounded.
//!
//! The *RunPod family* is `runpod_*`; the *inference family* has the names and labels that inference dashboards expect.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use runpod_handler_protocol::{ErrorKind, ErrorReport};

use crate::core::{JobStatus, PollAnswer, Report, Snapshot, WorkerState};

/// Jobs take milliseconds or minutes.
const JOB_SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
const INFERENCE_SECONDS: [f64; 11] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Requests carry no tenant that the worker knows of.
const TENANT: &str = "default";

/// What is counted under `model` and `version` until the handler has introduced itself.
const UNKNOWN: &str = "unknown";

/// One word from a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Category {
    category: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Device {
    device: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: Arc<str>,
    version: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    model: Arc<str>,
    version: Arc<str>,
    tenant: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestError {
    model: Arc<str>,
    version: Arc<str>,
    error_type: &'static str,
    tenant: &'static str,
}

/// Makes the histograms of a family.
#[derive(Clone, Debug)]
struct InferenceBuckets;

impl MetricConstructor<Histogram> for InferenceBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(INFERENCE_SECONDS)
    }
}

/// The worker's own registry. Cheap to update: each metric is an atomic.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    model: Mutex<Model>,

    jobs: Family<Status, Counter>,
    job_duration: Histogram,
    job_queue: Histogram,
    queue_depth: Gauge,
    job_errors: Family<Category, Counter>,
    job_retries: Counter,
    worker_state: Family<State, Gauge>,
    slots: Family<State, Gauge>,
    polls: Family<Outcome, Counter>,
    restarts: Family<Cause, Counter>,
    delivered: Family<Outcome, Counter>,
    undelivered: Gauge,
    load: Histogram,

    requests: Family<Request, Counter>,
    errors: Family<RequestError, Counter>,
    latency: Family<Request, Histogram, InferenceBuckets>,
    inflight: Family<Device, Gauge>,
    timeouts: Family<Device, Counter>,
    model_queue_depth: Family<Model, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let mut metrics = Self {
            model: Mutex::new(Model { model: UNKNOWN.into(), version: UNKNOWN.into() }),
            jobs: register(&mut registry, "runpod_jobs", "Jobs that reached a state"),
            job_duration: Histogram::new(JOB_SECONDS),
            job_queue: Histogram::new(JOB_SECONDS),
            queue_depth: register(&mut registry, "runpod_queue_depth", "Jobs held without a slot"),
            job_errors: register(&mut registry, "runpod_job_errors", "Failed jobs by category"),
            job_retries: register(&mut registry, "runpod_job_retries", "Runs repeated because a process died"),
            worker_state: register(&mut registry, "runpod_worker_state", "1 for the state that the worker is in"),
            slots: register(&mut registry, "runpod_worker_slots", "Slots by state"),
            polls: register(&mut registry, "runpod_worker_polls", "Polls by how they ended"),
            restarts: register(&mut registry, "runpod_worker_handler_exits", "Handler processes that ended"),
            delivered: register(&mut registry, "runpod_worker_results", "Results by what the platform said"),
            undelivered: register(&mut registry, "runpod_worker_outbox_jobs", "Finished jobs that wait for delivery"),
            load: Histogram::new([0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0]),
            requests: register(&mut registry, "inference_requests", "Jobs begun, counted before execution"),
            errors: register(&mut registry, "inference_errors", "Jobs that failed"),
            latency: Family::new_with_constructor(InferenceBuckets),
            inflight: register(&mut registry, "executor_inflight", "Jobs running now"),
            timeouts: register(&mut registry, "executor_timeouts", "Jobs ended by their deadline"),
            model_queue_depth: register(&mut registry, "job_queue_depth", "Jobs held without a slot"),
            registry: Registry::default(),
        };
        registry.register("runpod_job_duration_seconds", "Time from start to outcome", metrics.job_duration.clone());
        registry.register("runpod_job_queue_seconds", "Time from taken to started", metrics.job_queue.clone());
        registry.register("runpod_worker_load_seconds", "Time to build a slot's model", metrics.load.clone());
        registry.register("inference_latency_seconds", "Time from start to outcome", metrics.latency.clone());
        metrics.registry = registry;
        metrics
    }

    /// All metrics in OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be formatted.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts how a poll ended.
    pub fn poll_ended(&self, answer: &PollAnswer) {
        let outcome = match answer {
            PollAnswer::Jobs(_) => "jobs",
            PollAnswer::Nothing => "none",
            PollAnswer::Throttled { .. } => "throttled",
            PollAnswer::Failed { .. } => "failed",
            PollAnswer::Aborted => "aborted",
        };
        self.polls.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts what a report says.
    pub fn observe(&self, report: &Report) {
        match report {
            Report::JobTaken { .. } => self.count_job("in_queue"),
            Report::JobStarted { waited, attempt, .. } => {
                if *attempt == 1 {
                    self.count_job("in_progress");
                    self.job_queue.observe(waited.as_secs_f64());
                    self.requests.get_or_create(&self.request()).inc();
                }
            }
            Report::JobRetried { .. } => {
                self.job_retries.inc();
            }
            Report::JobFinished { status, error, run_time, device, .. } => {
                self.job_finished(*status, error.as_ref(), *run_time, device.as_deref());
            }
            Report::JobDelivered { accepted, .. } => {
                let outcome = if *accepted { "accepted" } else { "refused" };
                self.delivered.get_or_create(&Outcome { outcome }).inc();
            }
            Report::SlotReady { load_time, .. } => self.load.observe(load_time.as_secs_f64()),
            Report::ProcessExited { expected, exit, .. } => {
                let cause = match (expected, exit.host_oom) {
                    (true, _) => "replaced",
                    (false, true) => "host_oom",
                    (false, false) => "crashed",
                };
                self.restarts.get_or_create(&Cause { cause }).inc();
            }
            Report::DuplicateJob { .. }
            | Report::JobRefused { .. }
            | Report::JobStopping { .. }
            | Report::LateMessage { .. }
            | Report::ProcessStarting { .. }
            | Report::Loading { .. }
            | Report::ProcessKilled { .. }
            | Report::StartFailed { .. }
            | Report::Draining { .. }
            | Report::LeftoversFound { .. }
            | Report::LeftoversLate { .. }
            | Report::ShutdownOverrun { .. } => {}
        }
    }

    /// Sets every gauge from a picture of the worker.
    pub fn publish(&self, snapshot: &Snapshot) {
        if let Some(manifest) = &snapshot.manifest {
            let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
            if *model.model != *manifest.name || *model.version != *manifest.version {
                *model = Model { model: manifest.name.as_str().into(), version: manifest.version.as_str().into() };
            }
        }
        for state in WorkerState::ALL {
            let value = i64::from(state == snapshot.state);
            self.worker_state.get_or_create(&State { state: state.as_str() }).set(value);
        }
        let slots = snapshot.slots;
        for (state, count) in [
            ("ready", slots.ready),
            ("busy", slots.busy),
            ("lingering", slots.lingering),
            ("loading", slots.loading),
            ("absent", slots.absent),
        ] {
            self.slots.get_or_create(&State { state }).set(gauge(count));
        }
        self.queue_depth.set(gauge(snapshot.jobs.in_queue));
        self.undelivered.set(gauge(snapshot.jobs.delivering));
        self.model_queue_depth.get_or_create(&self.model()).set(gauge(snapshot.jobs.in_queue));
        // Several processes may name the same device, such as `cpu`.
        for process in &snapshot.processes {
            if let Some(device) = &process.device {
                let same = snapshot.processes.iter().filter(|other| other.device.as_ref() == Some(device));
                let busy: usize = same.map(|process| process.busy).sum();
                self.inflight.get_or_create(&Device { device: device.as_str().into() }).set(gauge(busy));
            }
        }
    }

    fn job_finished(&self, status: JobStatus, error: Option<&ErrorReport>, run_time: Duration, device: Option<&str>) {
        self.count_job(status.as_str());
        if run_time > Duration::ZERO {
            self.job_duration.observe(run_time.as_secs_f64());
            self.latency.get_or_create(&self.request()).observe(run_time.as_secs_f64());
        }
        if status == JobStatus::TimedOut {
            let device = device.unwrap_or(UNKNOWN).into();
            self.timeouts.get_or_create(&Device { device }).inc();
        }
        if let Some(error) = error {
            self.job_errors.get_or_create(&Category { category: category(error.kind) }).inc();
            let Request { model, version, tenant } = self.request();
            let error_type = error_type(error.kind);
            self.errors.get_or_create(&RequestError { model, version, error_type, tenant }).inc();
        }
    }

    fn count_job(&self, status: &'static str) {
        self.jobs.get_or_create(&Status { status }).inc();
    }

    fn model(&self) -> Model {
        self.model.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn request(&self) -> Request {
        let Model { model, version } = self.model();
        Request { model, version, tenant: TENANT }
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The coarse category of an error.
fn category(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Validation | ErrorKind::ModelNotFound => "validation",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Oom => "oom",
        _ => "unknown",
    }
}

/// The error type of the inference family.
fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ModelNotFound => "model_not_found",
        ErrorKind::Timeout => "timeout",
        _ => "inference_error",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runpod_handler_protocol::Manifest;
    use serde_json::json;

    use super::*;
    use crate::core::{JobCounts, ProcessId, ProcessView, SlotCounts};

    fn snapshot() -> Snapshot {
        let manifest = Manifest {
            name: "sentences".into(),
            version: "1.2.3".into(),
            idempotent: false,
            streams: false,
            input_schema: json!({}),
            output_schema: json!({}),
            chunk_schema: None,
        };
        let process = ProcessView {
            id: ProcessId(0),
            epoch: crate::core::Epoch(1),
            phase: "serving",
            pid: Some(7),
            device: Some("cuda:0".into()),
            busy: 2,
            last_exit: None,
        };
        Snapshot {
            state: WorkerState::Running,
            jobs: JobCounts { in_queue: 3, ..JobCounts::default() },
            slots: SlotCounts { ready: 1, busy: 2, ..SlotCounts::default() },
            processes: vec![process],
            manifest: Some(manifest.into()),
            ..Snapshot::default()
        }
    }

    fn finished(job: &str, status: JobStatus, kind: Option<ErrorKind>) -> Report {
        Report::JobFinished {
            job: job.into(),
            status,
            error: kind.map(|kind| ErrorReport { kind, message: "free text".into(), traceback: String::new() }),
            run_time: Duration::from_millis(30),
            device: Some("cuda:0".into()),
            records: BTreeMap::new(),
        }
    }

    fn after(jobs: usize) -> String {
        let metrics = Metrics::new();
        metrics.publish(&snapshot());
        metrics.poll_ended(&PollAnswer::Nothing);
        for index in 0..jobs {
            let job = format!("secret-job-{index}");
            metrics.observe(&Report::JobTaken { job: job.as_str().into() });
            let waited = Duration::from_millis(2);
            metrics.observe(&Report::JobStarted { job: job.as_str().into(), attempt: 1, waited });
            metrics.observe(&finished(&job, JobStatus::Completed, None));
            metrics.observe(&finished(&job, JobStatus::TimedOut, Some(ErrorKind::Timeout)));
            metrics.observe(&finished(&job, JobStatus::Failed, Some(ErrorKind::ModelNotFound)));
            metrics.observe(&Report::JobDelivered { job: job.as_str().into(), accepted: true });
        }
        metrics.encode().unwrap()
    }

    #[test]
    fn names_types_and_labels() {
        // Series of one metric come in any order.
        let text = after(1);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn series_do_not_grow_with_jobs() {
        let (few, many) = (after(1), after(500));
        assert_eq!(few.lines().count(), many.lines().count());
        assert!(!many.contains("secret-job") && !many.contains("free text"));
    }
}
