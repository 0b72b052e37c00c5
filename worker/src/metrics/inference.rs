//! `inference_*`, `executor_*` and `job_queue_depth`: the model, under names that several systems share.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use runpod_handler_protocol::Manifest;

use super::labels::{Device, ERROR_TYPES, Histograms, LONG_BUCKETS, Model, count, error_type, register};
use super::tenants::Tenants;
use runpod_worker_core::{JobStatus, Report, Snapshot};

/// Seconds; part of the interface of `inference_latency_seconds`. It cannot tell 11 s from an hour: `inference_duration_seconds` can.
const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    model: Cow<'static, str>,
    version: Cow<'static, str>,
    tenant: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestError {
    model: Cow<'static, str>,
    version: Cow<'static, str>,
    error_type: &'static str,
    tenant: Cow<'static, str>,
}

/// The bounds of the latency, and beyond them those of long times.
fn duration_histogram() -> Histogram {
    let last = LATENCY_BUCKETS.last().copied().unwrap_or_default();
    Histogram::new(LATENCY_BUCKETS.into_iter().chain(LONG_BUCKETS.into_iter().filter(move |bound| *bound > last)))
}

#[derive(Debug)]
pub(super) struct InferenceMetrics {
    requests: Family<Request, Counter>,
    errors: Family<RequestError, Counter>,
    latency: Histograms<Request>,
    duration: Histograms<Request>,
    inflight: Family<Device, Gauge>,
    timeouts: Family<Device, Counter>,
    queue_depth: Family<Model, Gauge>,
    tenants: Tenants,
    /// From the handler's manifest, once it is known.
    model: OnceLock<Model>,
}

impl InferenceMetrics {
    pub(super) fn new(r: &mut Registry, tenant_limit: usize) -> Self {
        let latency: Histograms<Request> = Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        let duration: Histograms<Request> = Family::new_with_constructor(duration_histogram);
        Self {
            requests: register(r, "inference_requests", "Jobs taken, counted before execution", Family::default()),
            errors: register(r, "inference_errors", "Jobs that failed, by error type", Family::default()),
            latency: register(
                r,
                "inference_latency_seconds",
                "Time to execute a job, in buckets up to 10 s; inference_duration_seconds has longer ones",
                latency,
            ),
            duration: register(r, "inference_duration_seconds", "Time to execute a job of any length", duration),
            inflight: register(r, "executor_inflight", "Jobs in execution", Family::default()),
            timeouts: register(r, "executor_timeouts", "Jobs ended by their deadline", Family::default()),
            queue_depth: register(r, "job_queue_depth", "Jobs held without a slot", Family::default()),
            tenants: Tenants::new(tenant_limit),
            model: OnceLock::new(),
        }
    }

    pub(super) fn observe(&self, report: &Report) {
        match report {
            Report::JobTaken { tenant, .. } => {
                let request = self.request(tenant.as_deref());
                if self.requests.get(&request).is_none() {
                    self.create_known_series(&request);
                }
                self.requests.get_or_create(&request).inc();
            }
            Report::JobFinished { status, error, run_time, device, tenant, .. } => {
                let request = self.request(tenant.as_deref());
                let ran = !run_time.is_zero() && !matches!(status, JobStatus::Cancelled | JobStatus::HandedBack);
                if ran {
                    self.latency.get_or_create(&request).observe(run_time.as_secs_f64());
                    self.duration.get_or_create(&request).observe(run_time.as_secs_f64());
                }
                if *status == JobStatus::TimedOut {
                    let device = Device::new(device.as_deref().unwrap_or_default());
                    self.timeouts.get_or_create(&device).inc();
                }
                if let (JobStatus::Failed | JobStatus::TimedOut, Some(error)) = (status, error) {
                    let Request { model, version, tenant } = request;
                    let error_type = error_type(error.kind);
                    self.errors.get_or_create(&RequestError { model, version, error_type, tenant }).inc();
                }
            }
            _ => {}
        }
    }

    /// Jobs are counted under the name that the first handler process gives.
    pub(super) fn introduce(&self, manifest: Option<&Manifest>) {
        if let (None, Some(manifest)) = (self.model.get(), manifest) {
            self.model.get_or_init(|| Model::new(manifest));
            self.create_known_series(&self.request(None));
        }
    }

    /// Everything that jobs of this model and tenant may be counted in, so that rates see the first of them.
    fn create_known_series(&self, request: &Request) {
        drop(self.requests.get_or_create(request));
        drop(self.latency.get_or_create(request));
        drop(self.duration.get_or_create(request));
        for error_type in ERROR_TYPES {
            let Request { model, version, tenant } = request.clone();
            drop(self.errors.get_or_create(&RequestError { model, version, error_type, tenant }));
        }
    }

    pub(super) fn publish(&self, snapshot: &Snapshot) {
        if let Some(model) = self.model.get() {
            self.queue_depth.get_or_create(model).set(count(snapshot.jobs.in_queue));
        }
        // Several processes may share a device, such as the CPU.
        let mut busy: BTreeMap<&str, usize> = BTreeMap::new();
        for process in &snapshot.processes {
            if let Some(device) = &process.device {
                *busy.entry(device).or_default() += process.busy;
            }
        }
        for (device, jobs) in busy {
            let device = Device::new(device);
            drop(self.timeouts.get_or_create(&device));
            self.inflight.get_or_create(&device).set(count(jobs));
        }
    }

    fn request(&self, tenant: Option<&str>) -> Request {
        let Model { model, version } = self.model.get().cloned().unwrap_or(Model::UNKNOWN);
        Request { model, version, tenant: self.tenants.label(tenant) }
    }
}
