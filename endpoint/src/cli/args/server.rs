//! The flags of `serve` and `dev`, apart from those of local workers.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::parse::{
    WebhookSchedule, batch_retention, endpoint_id, hold, lease, level, retention, secret, webhook_schedule,
};
use super::workers::WorkerArgs;
use crate::api::{FairBy, Origin};
use crate::secret::Secret;
use runpod_address_guard::network;
use runpod_log_line::LogFormat;
use tracing::level_filters::LevelFilter;

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint serve
  runpod-endpoint serve --data jobs.db
  runpod-endpoint serve --database postgres://jobs@db-1,db-2/jobs --database-password-file password
  runpod-endpoint serve --workers-min 0 --workers-max 4 -- ./my-handler
  runpod-endpoint serve --bind 0.0.0.0:8000 --api-key CLIENT-KEY --worker-key WORKER-KEY")]
pub struct ServeArgs {
    /// Endpoint id in the printed examples; the server accepts any id
    #[arg(long, default_value = "local", value_name = "NAME", value_parser = endpoint_id, help_heading = "Server")]
    pub endpoint_id: String,
    /// The server's settings.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Local workers, if there is a handler.
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// A handler program and its arguments: starts workers for it. Other workers can join as well
    #[arg(last = true, value_name = "HANDLER")]
    pub handler: Vec<OsString>,
}

/// `dev`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint dev -- ./target/debug/my-handler
  runpod-endpoint dev --workers-min 0 --workers-max 3 --faults bad-day.toml -- ./my-handler
  runpod-endpoint dev --workers 2 --worker-arg=--prefetch=1 -- ./my-handler --model small")]
pub struct DevArgs {
    /// Endpoint id, the last part of the URL
    #[arg(long, default_value = "local", value_name = "NAME", value_parser = endpoint_id, help_heading = "Server")]
    pub endpoint_id: String,
    /// The server's settings.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Its workers.
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// The handler program and its arguments
    #[arg(last = true, required = true, value_name = "HANDLER")]
    pub handler: Vec<OsString>,
}

/// The server's own settings.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct ListenArgs {
    /// Address and port to listen on; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
    pub bind: SocketAddr,
    /// Keep jobs, results and counters in this file, so that they survive a crash or a restart; for a folder the file is
    /// endpoint.db in it. Without it they are in memory and lost at the end
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Keep them in this PostgreSQL database, which any number of endpoints may share: postgres://USER@HOST:PORT/NAME, with commas
    /// between several hosts. The password is taken from the URL, from --database-password-file or from PGPASSWORD. TLS is used where the
    /// server offers it, beyond this machine: ?sslmode=disable or require, and PGSSLROOTCERT=FILE with its authority
    #[arg(
        long,
        env = "RUNPOD_ENDPOINT_DATABASE",
        hide_env_values = true,
        value_name = "URL",
        value_parser = secret,
        conflicts_with = "data"
    )]
    pub database: Option<Secret>,
    /// File with the password of the database on its first line
    #[arg(long, value_name = "FILE", requires = "database")]
    pub database_password_file: Option<PathBuf>,
    /// How long a start waits for a database that cannot be used yet; a wrong password or name ends it at once
    #[arg(long, default_value = "1m", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub database_wait: Duration,
    /// Endpoints with their own limits, handlers and workers, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every setting and limit with its value and origin, and end; exit status 64 if they cannot work
    #[arg(long)]
    pub check_config: bool,
    /// Keys.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Jobs.
    #[command(flatten)]
    pub jobs: QueueArgs,
    /// Connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Webhooks.
    #[command(flatten)]
    pub webhooks: WebhookArgs,
    /// Alerts.
    #[command(flatten)]
    pub alerts: AlertArgs,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// Faults.
    #[command(flatten)]
    pub faults: FaultArgs,
}

/// Who may use the two APIs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Keys")]
pub struct KeyArgs {
    /// Key that clients must send
    #[arg(long, env = "RUNPOD_ENDPOINT_API_KEY", hide_env_values = true, value_name = "KEY", value_parser = secret)]
    pub api_key: Option<Secret>,
    /// File with more client keys, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Key that workers must send
    #[arg(long, env = "RUNPOD_ENDPOINT_WORKER_KEY", hide_env_values = true, value_name = "KEY", value_parser = secret)]
    pub worker_key: Option<Secret>,
    /// File with more worker keys, one a line
    #[arg(long, value_name = "FILE")]
    pub worker_key_file: Option<PathBuf>,
    /// Origin of web pages that may use the client API, such as https://app.example.org; repeat for more, * for all
    #[arg(long, value_name = "ORIGIN")]
    pub cors_allow_origin: Vec<Origin>,
    /// Without keys, listen beyond this machine and accept every host name: everyone who reaches the port can run jobs
    #[arg(long)]
    pub insecure_no_auth: bool,
}

/// How jobs are handed out and what is accepted.
#[derive(Debug, Args)]
#[command(next_help_heading = "Jobs")]
pub struct QueueArgs {
    /// How long a worker's poll is held open when no job waits (workers give up after 90 s)
    #[arg(long, default_value = "25s", value_name = "TIME", value_parser = hold)]
    pub hold: Duration,
    /// A job that its worker's heartbeats do not list for this long is lost: it is retried on another worker
    #[arg(long, default_value = "40s", value_name = "TIME", value_parser = lease)]
    pub lease: Duration,
    /// How often a lost job is retried before it fails; RunPod retries once. A job that a worker hands back costs no retry
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub retries: u32,
    /// Batches of an endpoint that may be drafts or unfinished at the same time, as RunPod's
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_batches: u32,
    /// Requests in one batch, as RunPod's
    #[arg(long, default_value_t = 5000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_batch_requests: u32,
    /// How long a batch and its results are kept after its last request has ended, 1m to 90d
    #[arg(long, default_value = "7d", value_name = "TIME", value_parser = batch_retention)]
    pub batch_retention: Duration,
    /// Jobs that may wait at each endpoint; more are refused with 429 and Retry-After
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queued: Option<u32>,
    /// How long results are kept, 10s to 365d; without it as RunPod does: 30m for /run, 5m for /runsync
    #[arg(long, value_name = "TIME", value_parser = retention)]
    pub retention: Option<Duration>,
    /// Take jobs of different clients in turn: client-key, or a field of the input such as input.user
    #[arg(long, value_name = "WHAT")]
    pub fair_by: Option<FairBy>,
    /// Report jobs that exceed their execution timeout as TIMED_OUT; RunPod reports FAILED
    #[arg(long)]
    pub report_timed_out: bool,
    /// Largest result or stream item, in MiB
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_result_mib: u16,
    /// Refuse requests beyond RunPod's rate limits with 429
    #[arg(long, value_enum, default_value_t = RateLimitChoice::Off, value_name = "WHICH")]
    pub rate_limits: RateLimitChoice,
}

/// `--rate-limits`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RateLimitChoice {
    /// RunPod's table.
    Platform,
    /// None.
    Off,
}

/// What clients and workers may use of the server.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArgs {
    /// Open connections; a new one beyond that replaces an idle one, or gets 503. Fewer if the limit of open files (ulimit -n) is low
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub max_connections: u32,
    /// Memory for request bodies that are being received, in MiB; requests beyond that get 503
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_request_memory_mib: u32,
    /// Memory for large results that are read from the data file and sent, in MiB; requests beyond that get 503
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_reply_memory_mib: u32,
}

/// How webhooks are sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookArgs {
    /// Secret that signs webhooks (Standard Webhooks, HMAC-SHA256): `whsec_` and base64, or any text
    #[arg(long, env = "RUNPOD_ENDPOINT_WEBHOOK_SECRET", hide_env_values = true, value_name = "SECRET", value_parser = secret)]
    pub webhook_secret: Option<Secret>,
    /// Network or address that webhooks may reach although it is not public, for example 127.0.0.0/8; repeat for more
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub webhook_allow: Vec<IpNet>,
    /// How long a webhook that is not accepted is sent again, with growing pauses; `platform`: twice, as RunPod does
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = webhook_schedule)]
    pub webhook_retry_for: WebhookSchedule,
    /// Report cancelled jobs to their webhooks too; RunPod does not
    #[arg(long)]
    pub webhook_cancelled: bool,
}

/// Where alerts are sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Alerts")]
pub struct AlertArgs {
    /// URL that alerts are posted to; without it they are only logged
    #[arg(long, env = "RUNPOD_ENDPOINT_ALERT_WEBHOOK", hide_env_values = true, value_name = "URL", value_parser = secret)]
    pub alert_webhook: Option<Secret>,
    /// TOML file that changes, adds or switches off alert rules; `runpod-worker alerts --dry-run` prints those in effect
    #[arg(long, value_name = "FILE")]
    pub alert_rules: Option<PathBuf>,
    /// Shape of the posted body
    #[arg(long, value_enum, default_value_t = AlertFormat::Plain, value_name = "FORMAT")]
    pub alert_format: AlertFormat,
}

/// `--alert-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AlertFormat {
    /// `{title, message, severity, timestamp}`
    Plain,
    /// An incoming webhook of Slack
    Slack,
    /// A webhook of a Discord channel
    Discord,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Form of a log line, also for the workers that this program starts
    #[arg(long, env = "RUNPOD_ENDPOINT_LOG_FORMAT", value_enum, default_value_t = LogFormatChoice::Text, value_name = "FORMAT")]
    pub log_format: LogFormatChoice,
    /// trace, debug, info, warn, error or off. RUST_LOG, if it is set and this is not, filters by module as well
    #[arg(long, env = "RUNPOD_ENDPOINT_LOG_LEVEL", default_value = "info", value_name = "LEVEL", value_parser = level)]
    pub log_level: LevelFilter,
}

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatChoice {
    /// One JSON object a line
    Json,
    /// Text for people
    Text,
}

impl From<LogFormatChoice> for LogFormat {
    fn from(choice: LogFormatChoice) -> Self {
        match choice {
            LogFormatChoice::Json => Self::Json,
            LogFormatChoice::Text => Self::Text,
        }
    }
}

/// Scripted faults.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fault injection")]
pub struct FaultArgs {
    /// Script of faults, as TOML: test how handlers and workers cope with bad days
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Accept faults for single jobs in the X-Runpod-Faults header; always on in `dev`
    #[arg(long)]
    pub allow_fault_header: bool,
}
