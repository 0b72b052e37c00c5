//! Settings: raw text in, one validated [`Config`] out, or all mistakes at once, before anything is started.

mod alerts;
mod args;
mod direct;
mod environment;
mod errors;
mod handler;
mod limits;
mod load;
mod metrics;
mod parse;
mod probe;
mod runtime;
mod settings;
mod spool;
mod telemetry;
mod upkeep;

use std::net::SocketAddr;

pub use alerts::{AlertArgs, load_alerts};
pub use args::RunArgs;
pub use direct::{DirectArgs, DirectConfig};
pub use environment::{Environment, ProcessEnvironment};
pub use errors::{ConfigErrors, EXIT_CONFIG};
pub use handler::HandlerConfig;
pub use metrics::MetricsArgs;
pub use probe::probe_address;
pub use runtime::RuntimeArgs;
pub use spool::DeadLetterConfig;
pub use telemetry::TelemetryArgs;
pub use upkeep::UpkeepArgs;

use crate::alerts::AlertConfig;
use crate::base::Identity;
use crate::checks::CheckConfig;
use crate::heartbeat::HeartbeatConfig;
use crate::logs::LogConfig;
use crate::logs::SinkConfig;
use crate::outbox::{OutboxLimits, SpoolConfig};
use crate::queue::QueueConfig;
use crate::sensors::Port;
use crate::sensors::gpu::GpuSettings;
use crate::traces::TraceConfig;
use runpod_worker_core::Policy;

/// Everything the worker needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The queue; `None` when `RUNPOD_WEBHOOK_GET_JOB` is not set.
    pub queue: Option<QueueConfig>,
    /// The heartbeat; `None` when its URL, the worker id or the key is missing.
    pub heartbeat: Option<HeartbeatConfig>,
    /// Limits of the state machine.
    pub policy: Policy,
    /// What is checked before the first poll.
    pub checks: CheckConfig,
    /// The handler program.
    pub handler: HandlerConfig,
    /// Limits of the outbox.
    pub outbox: OutboxLimits,
    /// Where results are kept on disk.
    pub spool: SpoolConfig,
    /// Where `/health`, `/ready` and `/metrics` are served; `None` for nowhere.
    pub http_bind: Option<SocketAddr>,
    /// Stop at once when standard input ends.
    pub stop_with_stdin: bool,
    /// Tenants that have series of their own in `/metrics`.
    pub tenant_limit: usize,
    /// Logs.
    pub log: LogConfig,
    /// Where the log is posted to; `None` for nowhere.
    pub log_sink: Option<SinkConfig>,
    /// Where traces are exported to; `None` for nowhere.
    pub traces: Option<TraceConfig>,
    /// Alerts.
    pub alerts: AlertConfig,
    /// Which GPUs are looked at, and how often.
    pub gpus: GpuSettings,
    /// Ports of the container that the platform has made reachable.
    pub ports: Vec<Port>,
    /// Who this worker is.
    pub identity: Identity,
    /// What is odd but can be lived with; one line each, for the log.
    pub warnings: Vec<String>,
    description: String,
}

impl Config {
    /// The effective values and where each comes from, one line each. Secrets are shown as `set` or `not set`.
    pub fn describe(&self) -> String {
        self.description.clone()
    }
}

#[cfg(test)]
mod tests;
