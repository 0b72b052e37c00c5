//! Every metric of the worker, as methods with typed labels; one file per family.
//!
//! `runpod_*` describes the worker and its queue, `inference_*` with `executor_*` and `job_queue_depth` describes the model.
//! All of it follows from the core's reports and snapshots, so it cannot disagree with the log or with `/health`. No job id
//! and no free text is a label. `docs/metrics.md` is made of the descriptions here.

mod cost;
mod inference;
mod jobs;
mod labels;
mod outbox;
mod processes;
mod runtime;
mod tenants;
mod worker;

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use runpod_handler_protocol::Manifest;

use self::cost::CostMetrics;
use self::inference::InferenceMetrics;
use self::jobs::JobMetrics;
use self::outbox::OutboxMetrics;
use self::processes::ProcessMetrics;
use self::worker::WorkerMetrics;
use crate::outbox::OutboxStats;
use runpod_worker_core::{PollAnswer, Report, Snapshot};

pub use runtime::RuntimeMetrics;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Tenants with a label of their own, unless set otherwise.
pub const TENANT_LIMIT: usize = 32;

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

/// All metrics and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: JobMetrics,
    worker: WorkerMetrics,
    processes: ProcessMetrics,
    outbox: OutboxMetrics,
    cost: CostMetrics,
    inference: InferenceMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(TENANT_LIMIT)
    }
}

impl Metrics {
    /// All metrics at zero. Series whose labels are known in advance exist from the start, so that rates have a beginning.
    pub fn new(tenant_limit: usize) -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        Self {
            jobs: JobMetrics::new(r),
            worker: WorkerMetrics::new(r),
            processes: ProcessMetrics::new(r),
            outbox: OutboxMetrics::new(r),
            cost: CostMetrics::new(r),
            inference: InferenceMetrics::new(r, tenant_limit),
            registry,
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
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A poll has ended.
    pub fn poll(&self, answer: &PollAnswer) {
        self.worker.poll(answer);
    }

    /// A heartbeat has ended.
    pub fn heartbeat(&self, outcome: HeartbeatOutcome) {
        self.worker.heartbeat(outcome);
    }

    /// Counts what a report tells.
    pub fn observe(&self, report: &Report) {
        self.jobs.observe(report);
        self.processes.observe(report);
        self.inference.observe(report);
    }

    /// The handler has introduced itself; cheap to say again.
    pub fn introduce(&self, manifest: Option<&Manifest>) {
        self.inference.introduce(manifest);
    }

    /// Sets what follows from the state of the worker. Done when somebody asks, because the state changes more often.
    pub fn publish(&self, snapshot: &Snapshot) {
        self.introduce(snapshot.manifest.as_deref());
        self.jobs.publish(snapshot);
        self.worker.publish(snapshot);
        self.outbox.publish(snapshot);
        self.cost.publish(snapshot);
        self.inference.publish(snapshot);
    }

    /// Sets what is no part of that state. `heartbeat_age` is `None` without a heartbeat.
    pub fn sample(&self, uptime: Duration, heartbeat_age: Option<Duration>, outbox: &OutboxStats) {
        self.worker.sample(uptime, heartbeat_age);
        self.outbox.sample(outbox);
    }
}

#[cfg(test)]
mod tests;
