//! Every metric of the worker, as methods with typed labels; one file per family.
//!
//! `runpod_*` describes the worker and its queue, `inference_*` with `executor_*` and `job_queue_depth` describes the model.
//! They follow from the core's reports and snapshots, as the log and `/health` do, so they cannot disagree with those. No job id
//! and no free text is a label. `docs/metrics.md` is generated from the descriptions here.

mod batches;
mod cost;
mod inference;
mod jobs;
mod labels;
mod outbox;
mod processes;
mod runtime;
mod servers;
mod tenants;
mod worker;

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use runpod_handler_protocol::Manifest;

use self::batches::BatchMetrics;
use self::cost::CostMetrics;
use self::inference::InferenceMetrics;
use self::jobs::JobMetrics;
use self::outbox::OutboxMetrics;
use self::processes::ProcessMetrics;
use self::worker::WorkerMetrics;
use crate::outbox::OutboxStats;
use runpod_worker_core::{PollAnswer, Report, Snapshot};

pub use runtime::RuntimeMetrics;
pub use servers::ServerMetrics;

/// Tenants with a label of their own, unless set otherwise.
pub const TENANT_LIMIT: usize = 32;

/// The outcome of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The queue answered with a success.
    Ok,
    /// The queue could not be reached or answered with an error.
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
    batches: BatchMetrics,
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
    /// All metrics at zero. Series whose labels are known in advance exist from the start, so that rates can be computed.
    pub fn new(tenant_limit: usize) -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        Self {
            jobs: JobMetrics::new(r),
            worker: WorkerMetrics::new(r),
            processes: ProcessMetrics::new(r),
            batches: BatchMetrics::new(r),
            outbox: OutboxMetrics::new(r),
            cost: CostMetrics::new(r),
            inference: InferenceMetrics::new(r, tenant_limit),
            registry,
        }
    }

    /// Adds metrics that are read for each scrape.
    pub fn add(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// The OpenMetrics text of everything, to be served by [`exposition`](runpod_http_server::exposition).
    ///
    /// # Errors
    /// Only what writing into a string can report: nothing in practice.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts a poll that has ended.
    pub fn poll(&self, answer: &PollAnswer) {
        self.worker.poll(answer);
    }

    /// Counts a ping that has ended.
    pub fn heartbeat(&self, outcome: HeartbeatOutcome) {
        self.worker.heartbeat(outcome);
    }

    /// Counts a report of the core.
    pub fn observe(&self, report: &Report) {
        self.jobs.observe(report);
        self.processes.observe(report);
        self.batches.observe(report);
        self.inference.observe(report);
    }

    /// Sets the labels that come from the handler's manifest. Calling it again costs little.
    pub fn introduce(&self, manifest: Option<&Manifest>) {
        self.inference.introduce(manifest);
    }

    /// Sets the metrics that follow from the state of the worker. Called for each scrape, because the state changes more often.
    pub fn publish(&self, snapshot: &Snapshot) {
        self.introduce(snapshot.manifest.as_deref());
        self.jobs.publish(snapshot);
        self.worker.publish(snapshot);
        self.batches.publish(snapshot);
        self.outbox.publish(snapshot);
        self.cost.publish(snapshot);
        self.inference.publish(snapshot);
    }

    /// Sets the metrics that are not part of that state. `heartbeat_age` is `None` without a heartbeat.
    pub fn sample(&self, uptime: Duration, heartbeat_age: Option<Duration>, outbox: &OutboxStats) {
        self.worker.sample(uptime, heartbeat_age);
        self.outbox.sample(outbox);
    }
}

#[cfg(test)]
mod tests;
