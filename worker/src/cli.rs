//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{AlertArgs, DirectArgs, RunArgs};

/// Takes jobs from a RunPod-style queue, runs them in a handler process and delivers the results.
#[derive(Debug, Parser)]
#[command(name = "runpod-worker", version, about, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  runpod-worker new my-handler                          a handler crate to begin with
  runpod-worker test --input job.json -- ./my-handler   run one job and print its result
  runpod-worker check -- ./my-handler                   check machine, GPU and handler; prints what to fix
  runpod-worker schema -- ./my-handler                  print the JSON Schema of input and output
  runpod-endpoint dev -- ./my-handler                   a local queue and API with a worker
  runpod-worker run -- ./my-handler                     production; RUNPOD_WEBHOOK_* name the queue

Exit status: 0 shut down as asked, job completed or all checks passed, 1 unhealthy, job or check
failed, 64 wrong configuration.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs from the queue until told to stop
    ///
    /// The queue is named by RunPod's variables: RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT,
    /// RUNPOD_WEBHOOK_POST_STREAM, RUNPOD_WEBHOOK_PING, RUNPOD_AI_API_KEY, RUNPOD_POD_ID. The platform sets them, and so
    /// does `runpod-endpoint dev`. With RUNPOD_REALTIME_PORT jobs come by HTTP to that port instead. Without them one job is read from test_input.json, as RunPod's own worker does.
    Run(Box<RunArgs>),
    /// Answer HTTP requests instead of taking jobs from a queue: RunPod's load-balancing endpoints
    ///
    /// POST /runsync takes {"input": …} and answers with the result; with `Accept: text/event-stream` it answers with each
    /// item as it comes. GET /ping says 200 when ready and 204 while the model loads. The platform names the ports: PORT,
    /// PORT_HEALTH, HEALTH_CHECK_PATH. Without a platform: curl http://127.0.0.1:8000/runsync -d '{"input": …}'
    Serve(Box<ServeArgs>),
    /// Run one job without a queue and print its result as JSON
    Test(Box<TestArgs>),
    /// Make every check that `run` makes before its first job, and print each with what to do about it
    ///
    /// Memory, disk, network (only with --check-network), libtorch, CUDA, the GPU, and what the handler itself checks. Takes
    /// the variables of RunPod's SDK: RUNPOD_MIN_MEMORY_GB, RUNPOD_MIN_DISK_PERCENT, RUNPOD_NETWORK_CHECK_TIMEOUT,
    /// RUNPOD_MIN_CUDA_VERSION, RUNPOD_GPU_BENCHMARK_TIMEOUT, RUNPOD_GPU_TEST_TIMEOUT, RUNPOD_SKIP_AUTO_SYSTEM_CHECKS,
    /// RUNPOD_SKIP_GPU_CHECK.
    Check(Box<RunArgs>),
    /// Print the handler's name, version and JSON Schemas
    Schema(HandlerArgs),
    /// Write a handler crate to begin with: code, tests, a job to try, a Dockerfile
    New(NewArgs),
    /// Ask the worker that runs in this container whether it is live, or ready for jobs: exit status 0, or 1 with the reason
    Probe(ProbeArgs),
    /// Results that the queue refused for good: look at them, send them again, throw them away
    ///
    /// Reads the same variables as `run`, and needs no handler. The worker may be running meanwhile.
    DeadLetters(DeadLetterArgs),
    /// Alert rules: what they are, which would fire now, and whether the webhook works
    Alerts(AlertsArgs),
}

/// Arguments of `alerts`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-worker alerts --dry-run                                      the rules in effect
  runpod-worker alerts --dry-run --url http://127.0.0.1:8001          which of them would fire now
  runpod-worker alerts --dry-run --url http://127.0.0.1:8000/v2/local for an endpoint
  RUNPOD_WORKER_ALERT_WEBHOOK=URL runpod-worker alerts --test         send a test message")]
#[group(skip)]
pub struct AlertsArgs {
    /// Print the rules in effect and the bodies that would be posted; nothing is sent
    #[arg(long, required_unless_present = "test", conflicts_with = "test")]
    pub dry_run: bool,
    /// Send one test message
    #[arg(long)]
    pub test: bool,
    /// With --dry-run: the worker or endpoint to look at, such as http://127.0.0.1:8001
    #[arg(long, value_name = "URL", conflicts_with = "test")]
    pub url: Option<String>,
    /// Rules and webhook.
    #[command(flatten)]
    pub alerts: AlertArgs,
}

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Folder to create; its name becomes the crate's name
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// A model on libtorch instead of plain Rust
    #[arg(long)]
    pub torch: bool,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// What to ask.
    #[arg(value_enum, default_value_t = ProbeKind::Live)]
    pub kind: ProbeKind,
    /// As for `run` [env: RUNPOD_WORKER_HTTP_BIND] [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS")]
    pub http_bind: Option<String>,
}

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeKind {
    /// Whether its dispatcher moves; if not, it must be started again
    Live,
    /// Whether it can take or is running jobs
    Ready,
}

/// Arguments of `dead-letters`.
#[derive(Debug, Args)]
pub struct DeadLetterArgs {
    /// As for `run` [env: RUNPOD_WORKER_SPOOL_DIR]
    #[arg(long, value_name = "FOLDER", global = true)]
    pub spool_dir: Option<String>,
    /// Whose dead letters [env: RUNPOD_POD_ID]
    #[arg(long, value_name = "ID", global = true)]
    pub worker_id: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub action: DeadLetterAction,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterAction {
    /// One line each, oldest first
    List,
    /// Print the body that would be posted
    Show {
        /// Number, or job id
        #[arg(value_name = "ID")]
        name: String,
    },
    /// Post them once more; those that the queue takes are gone from here
    Resend {
        /// Numbers, or job ids
        #[arg(value_name = "ID", required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Throw them away
    Discard {
        /// Numbers, or job ids
        #[arg(value_name = "ID", required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where jobs come in, and how many.
    #[command(flatten)]
    pub direct: DirectArgs,
    /// Everything else is as for `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// File with the job, `{"input": …}`; `-` reads standard input [default: test_input.json]
    #[arg(long, value_name = "FILE", conflicts_with = "test_input")]
    pub input: Option<PathBuf>,
    /// The job itself instead of a file
    #[arg(long = "test-input", alias = "test_input", value_name = "JSON")]
    pub test_input: Option<String>,
    /// Everything else is as for `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// A handler program and its arguments.
#[derive(Debug, Args)]
pub struct HandlerArgs {
    /// Handler program and its arguments
    #[arg(last = true, required = true, value_name = "HANDLER")]
    pub handler: Vec<std::ffi::OsString>,
}
