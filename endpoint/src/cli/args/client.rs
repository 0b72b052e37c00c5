//! The flags of the commands that talk to an endpoint.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::parse::{endpoint_url, period, secret};
use crate::secret::Secret;

/// Which endpoint the client commands talk to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Endpoint")]
pub struct ServerArgs {
    /// Base URL of the endpoint: http://HOST:PORT/v2/ENDPOINT_ID, for RunPod itself https://api.runpod.ai/v2/ENDPOINT_ID. HOST:PORT means http://HOST:PORT/v2/local
    #[arg(long, env = "RUNPOD_ENDPOINT_URL", default_value = "http://127.0.0.1:8000/v2/local", value_name = "URL", value_parser = endpoint_url)]
    pub url: String,
    /// API key of the endpoint
    #[arg(long, env = "RUNPOD_API_KEY", hide_env_values = true, value_name = "KEY", value_parser = secret)]
    pub api_key: Option<Secret>,
}

/// Where the client commands send their requests, and how they print the answer.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// The endpoint.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON, one document a line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// `submit`
#[derive(Debug, Args)]
#[command(after_help = "\
The input is the job's input. A JSON object with a top-level `input` is sent as it is, as a whole
request: test_input.json files work unchanged.

Examples:
  runpod-endpoint submit '{\"prompt\": \"hi\"}'
  runpod-endpoint submit --input test_input.json --watch
  echo '{\"n\": 1}' | runpod-endpoint submit --input - --sync")]
pub struct SubmitArgs {
    /// Where to send it.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The input as JSON
    #[arg(value_name = "JSON", conflicts_with = "input", help_heading = "Input")]
    pub json_input: Option<String>,
    /// Read the input from a file, or from standard input with `-`
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    pub input: Option<PathBuf>,
    /// Name of this submission: repeated with the same name and input, it is the same job
    #[arg(long, value_name = "KEY", help_heading = "Input")]
    pub idempotency_key: Option<String>,
    /// Wait for the result and print it
    #[arg(long, conflicts_with = "watch", help_heading = "Output")]
    pub sync: bool,
    /// Follow the job as `watch --stream` does
    #[arg(long, help_heading = "Output")]
    pub watch: bool,
    /// Longest run time of the job, 5s to 7d; without it the endpoint's
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Job policy")]
    pub policy_execution_timeout: Option<Duration>,
    /// How long the job may exist, waiting included, 10s to 7d; without it the endpoint's
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Job policy")]
    pub policy_ttl: Option<Duration>,
    /// Run only when no other job waits
    #[arg(long, help_heading = "Job policy")]
    pub policy_low_priority: bool,
}

/// `status`, `stream` and `cancel`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status of stream: 0 COMPLETED, 1 FAILED or TIMED_OUT, 3 CANCELLED.

Example:
  runpod-endpoint status 0b0c8f5e-2d0e-4f0e-9a54-0a4f3f1d7a11-u1")]
pub struct JobArgs {
    /// Where to ask.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The id that `submit` printed
    #[arg(value_name = "JOB", help_heading = "Job")]
    pub job: String,
}

/// `retry`
#[derive(Debug, Args)]
#[command(after_help = "\
With --all-failed the oldest jobs come first. Exit status: 1 if some are left because as many jobs wait as may.

Examples:
  runpod-endpoint retry 0b0c8f5e-2d0e-4f0e-9a54-0a4f3f1d7a11-u1
  runpod-endpoint failed && runpod-endpoint retry --all-failed")]
pub struct RetryArgs {
    /// Where to ask.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The id that `submit` printed
    #[arg(
        value_name = "JOB",
        required_unless_present = "all_failed",
        conflicts_with = "all_failed",
        help_heading = "Job"
    )]
    pub job: Option<String>,
    /// Queue every FAILED and TIMED_OUT job again whose record is still kept
    #[arg(long, help_heading = "Job")]
    pub all_failed: bool,
}

/// `webhooks`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint webhooks
  runpod-endpoint webhooks --resend 0b0c8f5e-2d0e-4f0e-9a54-0a4f3f1d7a11-u1
  runpod-endpoint webhooks --resend-all")]
pub struct WebhooksArgs {
    /// Where to ask.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Send the webhook of this job again
    #[arg(long, value_name = "JOB", conflicts_with = "resend_all", help_heading = "Webhooks")]
    pub resend: Option<String>,
    /// Send all of them again
    #[arg(long, help_heading = "Webhooks")]
    pub resend_all: bool,
}

/// `watch`
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 COMPLETED, 1 FAILED or TIMED_OUT, 3 CANCELLED.

Examples:
  runpod-endpoint watch 0b0c8f5e-2d0e-4f0e-9a54-0a4f3f1d7a11-u1
  runpod-endpoint watch --stream 0b0c8f5e-2d0e-4f0e-9a54-0a4f3f1d7a11-u1")]
pub struct WatchArgs {
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
    /// Also print the items that the job streams. Each is read once: another reader of the stream does not get them
    #[arg(long, help_heading = "Output")]
    pub stream: bool,
}

/// `requests`, `failed`, `purge`, `pause` and `resume`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint requests --json
  runpod-endpoint purge --url http://127.0.0.1:8000/v2/images")]
pub struct EndpointArgs {
    /// Where to ask.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `health`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint health
  runpod-endpoint health --watch
  runpod-endpoint health --watch --interval 10s --json")]
pub struct HealthArgs {
    /// Where to ask.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Keep running: print a line with the time whenever a counter changes
    #[arg(long, help_heading = "Output")]
    pub watch: bool,
    /// How often to ask with --watch
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = period, requires = "watch", help_heading = "Output")]
    pub interval: Duration,
}

/// `top`
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q quit, arrows or j and k select a job, Enter its details, c cancel it, / filter by state or id.
With NO_COLOR set there are no colours. For an endpoint other than this program it shows what /health and /requests return.

Examples:
  runpod-endpoint top
  runpod-endpoint top --url https://api.runpod.ai/v2/ENDPOINT_ID --interval 5s")]
pub struct TopArgs {
    /// Where to ask.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How often to ask
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = period, help_heading = "Output")]
    pub interval: Duration,
}

/// `probe`
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What to ask
    #[arg(value_enum, default_value_t = ProbeKind::Live)]
    pub kind: ProbeKind,
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
    pub bind: SocketAddr,
}

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProbeKind {
    /// Whether requests are answered; if not, the server must be restarted
    Live,
    /// Whether jobs are accepted and kept
    Ready,
}
