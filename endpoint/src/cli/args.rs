//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::fleet::{GpuChoice, ScalerRule};
use crate::secret::Secret;

/// A RunPod-compatible serverless endpoint on your own machine, and a client for it and for RunPod itself.
#[derive(Debug, Parser)]
#[command(
    name = "runpod-endpoint",
    version,
    after_help = "\
Examples:
  runpod-endpoint dev -- ./target/debug/my-handler     run a handler behind a local endpoint
  runpod-endpoint submit '{\"prompt\": \"hi\"}' --sync     submit a job and print its result
  runpod-endpoint top                                  queue, workers, jobs and GPUs, live
  runpod-endpoint serve                                the endpoint alone; start workers yourself"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the endpoint alone and print what a worker needs to join it
    Serve(ServeArgs),
    /// Run the endpoint and workers for one handler program
    Dev(DevArgs),
    /// Submit a job
    Submit(SubmitArgs),
    /// Print the state of a job
    Status(JobArgs),
    /// Follow a job: a line for each change of state and each progress update, then its output
    Watch(WatchArgs),
    /// Print the items that a job streams, as they arrive
    Stream(JobArgs),
    /// Stop a job
    Cancel(JobArgs),
    /// Queue a FAILED or TIMED_OUT job again
    Retry(JobArgs),
    /// List the jobs that have not ended
    Requests(EndpointArgs),
    /// Cancel every job that no worker has taken
    Purge(EndpointArgs),
    /// Print job and worker counters
    Health(HealthArgs),
    /// Show queue, workers, jobs and GPUs, live, in the terminal
    Top(TopArgs),
    /// Ask the server that runs in this container whether it is live, or ready for jobs: exit status 0, or 1 with the reason
    Probe(ProbeArgs),
}

/// The server's own settings.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Address and port to listen on; port 0 lets the system choose
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
    pub bind: SocketAddr,
    /// Keep jobs, results and counters in this file, so that they survive a crash or a restart; a folder stands for
    /// endpoint.db in it [default: in memory, lost at the end]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Key that clients must send
    #[arg(long, env = "RUNPOD_ENDPOINT_API_KEY", hide_env_values = true, value_name = "KEY", value_parser = secret)]
    pub api_key: Option<Secret>,
    /// Key that workers must send
    #[arg(long, env = "RUNPOD_ENDPOINT_WORKER_KEY", hide_env_values = true, value_name = "KEY", value_parser = secret)]
    pub worker_key: Option<Secret>,
    /// File with more client keys, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// File with more worker keys, one a line
    #[arg(long, value_name = "FILE")]
    pub worker_key_file: Option<PathBuf>,
    /// Without keys, listen beyond this machine and answer to every host name: everyone who reaches the port can run jobs
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// How long a worker's poll is held open when no job waits (workers give up after 90 s)
    #[arg(long, default_value = "25s", value_name = "TIME", value_parser = hold)]
    pub hold: Duration,
    /// A job missing from its worker's heartbeats for this long is given to another worker, once
    #[arg(long, default_value = "40s", value_name = "TIME", value_parser = lease)]
    pub lease: Duration,
    /// Report jobs that exceed their execution timeout as TIMED_OUT; RunPod reports FAILED
    #[arg(long)]
    pub report_timed_out: bool,
    /// Largest result or stream item, in MiB
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_result_mib: u16,
    /// Endpoints with their own limits, handlers and workers, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Refuse requests beyond RunPod's rate limits with 429
    #[arg(long, value_enum, default_value_t = RateLimitChoice::Off, value_name = "WHICH")]
    pub rate_limits: RateLimitChoice,
    /// Secret that signs webhooks (Standard Webhooks, HMAC-SHA256): `whsec_` and base64, or any text
    #[arg(long, env = "RUNPOD_ENDPOINT_WEBHOOK_SECRET", hide_env_values = true, value_name = "SECRET", value_parser = secret)]
    pub webhook_secret: Option<Secret>,
    /// Network that webhooks may reach although it is not public, for example 127.0.0.0/8; repeat for more
    #[arg(long, value_name = "CIDR")]
    pub webhook_allow: Vec<IpNet>,
    /// Alerts.
    #[command(flatten)]
    pub alerts: AlertArgs,
    /// Script of faults to rehearse bad days with, as TOML
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,
    /// Let clients bring faults for their own jobs in the X-Runpod-Faults header; always on in `dev`
    #[arg(long)]
    pub allow_fault_header: bool,
}

/// Who is told when something goes wrong.
#[derive(Debug, Args)]
pub struct AlertArgs {
    /// URL that alerts are posted to [default: none, alerts are only logged]
    #[arg(long, env = "RUNPOD_ENDPOINT_ALERT_WEBHOOK", hide_env_values = true, value_name = "URL", value_parser = secret)]
    pub alert_webhook: Option<Secret>,
    /// TOML file that changes, adds or switches off alert rules; `runpod-worker alerts --dry-run` prints those in effect
    #[arg(long, value_name = "FILE")]
    pub alert_rules: Option<PathBuf>,
    /// Shape of the body
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

/// `--rate-limits`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RateLimitChoice {
    /// RunPod's table.
    Platform,
    /// None.
    Off,
}

/// How workers are started, scaled and ended.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Number of workers to keep running: the same as this --workers-min and --workers-max
    #[arg(long, value_name = "N", conflicts_with_all = ["workers_min", "workers_max"], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// Workers that always run [default: 1; 0 lets all leave when there is nothing to do]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=64))]
    pub workers_min: Option<u16>,
    /// Workers that run at most [default: the larger of --workers-min and 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers_max: Option<u16>,
    /// When to add workers: queue-delay=TIME, once a job has waited that long, or request-count=N, one for N jobs
    #[arg(long, default_value = "queue-delay=4s", value_name = "RULE")]
    pub scaler: ScalerRule,
    /// A worker beyond the minimum leaves after this time without a job
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub idle_timeout: Duration,
    /// GPUs to deal out to workers as CUDA_VISIBLE_DEVICES: auto, none or a list like 0,1
    #[arg(long, default_value = "auto", value_name = "LIST")]
    pub gpus: GpuChoice,
    /// GPUs for each worker
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub gpus_per_worker: u8,
    /// The runpod-worker program; default: beside this program, then on PATH
    #[arg(long, value_name = "PATH")]
    pub worker_bin: Option<PathBuf>,
    /// An argument for `runpod-worker run`; repeat for more
    #[arg(long = "worker-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub worker_args: Vec<OsString>,
    /// Port of the first worker's own HTTP server, the next worker gets the next port; 0 lets the system choose
    #[arg(long, default_value_t = 8001, value_name = "PORT")]
    pub worker_http_port: u16,
    /// How long workers may finish their jobs when this program is stopped or a worker is no longer needed
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub stop_grace: Duration,
}

impl WorkerArgs {
    /// The least and the largest number of workers.
    pub(crate) fn bounds(&self) -> (u16, u16) {
        let min = self.workers.or(self.workers_min).unwrap_or(1).min(self.workers_max.unwrap_or(u16::MAX));
        (min, self.workers.or(self.workers_max).unwrap_or(1).max(min))
    }
}

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-endpoint serve
  runpod-endpoint serve --data jobs.db
  runpod-endpoint serve --workers-min 0 --workers-max 4 -- ./my-handler
  runpod-endpoint serve --bind 0.0.0.0:8000 --api-key CLIENT-KEY --worker-key WORKER-KEY")]
pub struct ServeArgs {
    /// The server's settings.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Endpoint id in the printed examples; the server takes any id
    #[arg(long, default_value = "local", value_name = "NAME", value_parser = endpoint_id)]
    pub endpoint_id: String,
    /// Local workers, if there is a handler.
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// A handler program and its arguments: starts workers for it. Other workers may join all the same
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
    /// The server's settings.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Endpoint id, the last part of the URL
    #[arg(long, default_value = "local", value_name = "NAME", value_parser = endpoint_id)]
    pub endpoint_id: String,
    /// Its workers.
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// The handler program and its arguments
    #[arg(last = true, required = true, value_name = "HANDLER")]
    pub handler: Vec<OsString>,
}

/// Which endpoint the client commands talk to.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Base URL of the endpoint; for RunPod itself https://api.runpod.ai/v2/ENDPOINT_ID
    #[arg(long, env = "RUNPOD_ENDPOINT_URL", default_value = "http://127.0.0.1:8000/v2/local", value_name = "URL")]
    pub url: String,
    /// API key
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
    #[arg(long)]
    pub json: bool,
}

/// `submit`
#[derive(Debug, Args)]
#[command(after_help = "\
The input is the job's input. A JSON object with a top-level `input` is sent as a whole request instead, so that
test_input.json files work as they are.

Examples:
  runpod-endpoint submit '{\"prompt\": \"hi\"}'
  runpod-endpoint submit --input test_input.json --watch
  echo '{\"n\": 1}' | runpod-endpoint submit --input - --sync")]
pub struct SubmitArgs {
    /// Where to send it.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The input as JSON
    #[arg(value_name = "JSON", conflicts_with = "input")]
    pub json_input: Option<String>,
    /// Read the input from a file, or from standard input with `-`
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Wait for the result and print it
    #[arg(long, conflicts_with = "watch")]
    pub sync: bool,
    /// Follow the job as `watch --stream` does
    #[arg(long)]
    pub watch: bool,
    /// Longest run time of the job, 5s to 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub policy_execution_timeout: Option<Duration>,
    /// Longest life of the job, waiting included, 10s to 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub policy_ttl: Option<Duration>,
    /// Run only when no other job waits
    #[arg(long)]
    pub policy_low_priority: bool,
}

/// `status`, `stream`, `cancel` and `retry`
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
    #[arg(value_name = "JOB")]
    pub job: String,
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
    /// Print the items that the job streams too. Each is read once: another reader of the stream does not get them
    #[arg(long)]
    pub stream: bool,
}

/// `requests` and `purge`
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
    /// Go on: a line with the time whenever a counter has changed
    #[arg(long)]
    pub watch: bool,
    /// How often to ask with --watch
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = period, requires = "watch")]
    pub interval: Duration,
}

/// `top`
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q quit, arrows or j and k select a job, Enter its details, c cancel it, / filter by state or id.
With NO_COLOR set there are no colours. Of an endpoint other than this program it shows what /health and /requests tell.

Examples:
  runpod-endpoint top
  runpod-endpoint top --url https://api.runpod.ai/v2/ENDPOINT_ID --interval 5s")]
pub struct TopArgs {
    /// Where to ask.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How often to ask
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = period)]
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
    /// Whether requests are answered; if not, it must be started again
    Live,
    /// Whether jobs are taken and kept
    Ready,
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

fn hold(text: &str) -> Result<Duration, String> {
    seconds(text, 1..=85, "give 1s to 85s: workers give up after 90s")
}

fn lease(text: &str) -> Result<Duration, String> {
    seconds(text, 5..=3600, "give 5s to 1h, at least three heartbeat intervals")
}

fn period(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time);
    if fits { Ok(time) } else { Err("give 100ms to 1h".to_owned()) }
}

fn seconds(text: &str, range: RangeInclusive<u64>, advice: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = time >= Duration::from_secs(*range.start()) && time <= Duration::from_secs(*range.end());
    if fits { Ok(time) } else { Err(advice.to_owned()) }
}

pub(crate) fn endpoint_id(text: &str) -> Result<String, String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 64 letters, digits, - and _".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn handler_arguments_are_left_alone() {
        let cli = Cli::try_parse_from(["runpod-endpoint", "dev", "--workers", "2", "--", "./h", "--workers", "9"]);
        let Command::Dev(dev) = cli.unwrap().command else { panic!("not dev") };
        assert_eq!(
            (dev.workers.bounds(), dev.handler),
            ((2, 2), ["./h", "--workers", "9"].map(OsString::from).to_vec())
        );
    }

    #[test]
    fn worker_bounds_fit_together() {
        for (args, bounds) in [
            (&[][..], (1, 1)),
            (&["--workers-max", "3"], (1, 3)),
            (&["--workers-min", "2"], (2, 2)),
            (&["--workers-min", "0", "--workers-max", "2"], (0, 2)),
            (&["--workers-min", "0"], (0, 1)),
        ] {
            let cli = Cli::try_parse_from(["runpod-endpoint", "dev"].iter().chain(args).chain(&["--", "h"]));
            let Command::Dev(dev) = cli.unwrap().command else { panic!("not dev") };
            assert_eq!(dev.workers.bounds(), bounds, "{args:?}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let cli = Cli::try_parse_from(["runpod-endpoint", "health", "--api-key", "hunter2"]).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
