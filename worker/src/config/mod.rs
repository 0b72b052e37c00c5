//! Turns flags and environment variables into one validated [`Config`], or reports all mistakes at once, before anything is
//! started. It knows the settings of every part; no part knows it.

mod alerts;
mod args;
mod checks;
mod conflicts;
mod dead_letters;
mod description;
mod direct;
mod environment;
mod errors;
mod gpu;
mod handler;
mod http;
mod identity;
mod load;
mod logs;
mod metrics;
mod parse;
mod ports;
mod queue;
mod receiver;
mod recycling;
mod settings;
mod spool;
mod traces;

use std::net::SocketAddr;

use runpod_worker_core::Policy;

pub use alerts::{AlertArgs, load_alerts};
pub use args::RunArgs;
pub use checks::CheckArgs;
pub use dead_letters::DeadLetterConfig;
pub use description::Description;
pub use direct::{DirectArgs, load_realtime, load_serve};
pub use environment::{Environment, ProcessEnvironment};
pub use errors::{ConfigErrors, EXIT_CONFIG};
pub use gpu::GpuArgs;
pub use handler::HandlerConfig;
pub use http::probe_address;
pub use logs::LogArgs;
pub use metrics::MetricsArgs;
pub use recycling::RecycleArgs;
pub use traces::TraceArgs;

use crate::alerts::AlertConfig;
use crate::base::Identity;
use crate::checks::CheckConfig;
use crate::heartbeat::HeartbeatConfig;
use crate::logs::{LogConfig, SinkConfig};
use crate::outbox::{OutboxLimits, SpoolConfig};
use crate::queue::QueueConfig;
use crate::sensors::Port;
use crate::sensors::gpu::GpuSettings;
use crate::traces::TraceConfig;

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
    /// Connections that this server may have open.
    pub http_connections: usize,
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
    /// Settings that are probably mistakes but do not keep the worker from working; one line each, for the log.
    pub warnings: Vec<String>,
    /// The effective values of all settings.
    pub description: Description,
}

#[cfg(test)]
mod tests;
