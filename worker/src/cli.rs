//! The command line.

mod author;
mod python;

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand, ValueEnum};

use crate::config::{AlertArgs, DirectArgs, RunArgs};

pub use author::{HandlerKind, LibtorchArgs, LibtorchVariant, NewArgs, SdkChoice};
pub use python::PythonArgs;

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
  runpod-worker new my-handler                          a new handler crate
  runpod-worker libtorch                                libtorch for it, if it uses it
  runpod-worker test --input job.json -- ./my-handler   run one job and print its result
  runpod-worker check -- ./my-handler                   check machine, GPU and handler
  runpod-worker schema -- ./my-handler                  print the JSON Schema of input and output
  runpod-endpoint dev -- ./my-handler                   a local queue and API with a worker
  runpod-worker run -- ./my-handler                     production; RUNPOD_WEBHOOK_* name the queue

Exit status: 0 when the worker was asked to stop, the job completed or all checks passed; 1 when the
worker is unhealthy, or the job or a check failed; 64 when the configuration is wrong.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs from the queue until asked to stop
    ///
    /// The queue is named by RunPod's variables: RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT,
    /// RUNPOD_WEBHOOK_POST_STREAM, RUNPOD_WEBHOOK_PING, RUNPOD_AI_API_KEY, RUNPOD_POD_ID. The platform sets them, and so
    /// does `runpod-endpoint dev`. With RUNPOD_REALTIME_PORT, jobs come by HTTP to that port instead. With neither, one job is
    /// read from test_input.json, as in RunPod's own worker, whose flags are accepted too.
    Run(Box<RunCommandArgs>),
    /// Answer HTTP requests instead of taking jobs from a queue: RunPod's load-balancing endpoints
    ///
    /// POST /runsync takes {"input": …} and answers with the result; with `Accept: text/event-stream` it answers with each
    /// item as it comes. GET /ping answers 200 when ready and 204 while the model loads. The platform sets the ports: PORT,
    /// PORT_HEALTH, HEALTH_CHECK_PATH. To try it locally: curl http://127.0.0.1:8000/runsync -d '{"input": …}'
    Serve(Box<ServeArgs>),
    /// Run one job without a queue and print its result as JSON
    Test(Box<TestArgs>),
    /// Make every fitness check that `run` makes before its first job, and print each result with its fix
    ///
    /// Memory, disk, network (only with --check-network), libtorch, CUDA, the GPU, and the checks of the handler itself. Reads
    /// the variables of RunPod's SDK: RUNPOD_MIN_MEMORY_GB, RUNPOD_MIN_DISK_PERCENT, RUNPOD_NETWORK_CHECK_TIMEOUT,
    /// RUNPOD_MIN_CUDA_VERSION, RUNPOD_GPU_BENCHMARK_TIMEOUT, RUNPOD_GPU_TEST_TIMEOUT, RUNPOD_SKIP_AUTO_SYSTEM_CHECKS,
    /// RUNPOD_SKIP_GPU_CHECK, RUNPOD_SKIP_FITNESS_CHECKS.
    Check(Box<CheckCommandArgs>),
    /// Print the handler's name, version and JSON Schemas
    Schema(HandlerArgs),
    /// Write a new handler crate: code, tests, a job to try, a Dockerfile
    New(NewArgs),
    /// Install libtorch for a handler crate: headers and libraries, the release that the SDK is built with
    ///
    /// Downloads the wheels of PyTorch with pip, checks their hashes and keeps what C++ programs use. A run that was interrupted
    /// goes on with the packages that it lacks; a second run is instant. Needs python3 with pip, for x86-64.
    Libtorch(LibtorchArgs),
    /// Ask the worker in this container whether it is live, or ready for jobs: exit status 0, or 1 with the reason
    Probe(ProbeArgs),
    /// List, show, resend or discard results that the queue has refused for good
    ///
    /// Reads the same variables as `run`, and needs no handler. The worker may be running.
    DeadLetters(DeadLetterArgs),
    /// Show the alert rules and which of them would fire now, or test the webhook
    Alerts(AlertsArgs),
}

/// Arguments of `alerts`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runpod-worker alerts --dry-run                                      the rules in effect
  runpod-worker alerts --dry-run --url http://127.0.0.1:8001          which of them would fire now
  runpod-worker alerts --dry-run --url http://127.0.0.1:8000/v2/local the same for an endpoint
  RUNPOD_WORKER_ALERT_WEBHOOK=URL runpod-worker alerts --test         send a test message")]
#[group(skip)]
pub struct AlertsArgs {
    /// Print the rules in effect and the bodies that would be posted; nothing is sent
    #[arg(long, required_unless_present = "test", conflicts_with = "test")]
    pub dry_run: bool,
    /// Send one test message
    #[arg(long)]
    pub test: bool,
    /// With --dry-run: the worker or endpoint whose health is read, such as 127.0.0.1:8001
    #[arg(long, value_name = "URL", conflicts_with = "test")]
    pub url: Option<String>,
    /// Rules and webhook.
    #[command(flatten)]
    pub alerts: AlertArgs,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Which question to ask.
    #[arg(value_enum, default_value_t = ProbeKind::Live)]
    pub kind: ProbeKind,
    /// As for `run` [env: RUNPOD_WORKER_HTTP_BIND] [default: 127.0.0.1:8001]
    #[arg(long, value_name = "ADDRESS")]
    pub http_bind: Option<String>,
}

/// The question that a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeKind {
    /// Whether its dispatcher runs; if not, the worker must be restarted
    Live,
    /// Whether it can take jobs, or runs some
    Ready,
}

/// Arguments of `dead-letters`.
#[derive(Debug, Args)]
pub struct DeadLetterArgs {
    /// As for `run` [env: RUNPOD_WORKER_SPOOL_DIR]
    #[arg(long, value_name = "FOLDER", global = true)]
    pub spool_dir: Option<String>,
    /// Worker whose dead letters are meant [env: RUNPOD_POD_ID]
    #[arg(long, value_name = "ID", global = true)]
    pub worker_id: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub action: DeadLetterAction,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterAction {
    /// Print one line for each, oldest first
    List,
    /// Print the body that would be posted
    Show {
        /// Number, or job id
        #[arg(value_name = "ID")]
        name: String,
    },
    /// Post them again; those that the queue accepts are removed
    Resend {
        /// Numbers, or job ids
        #[arg(value_name = "ID", required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Delete them
    Discard {
        /// Numbers, or job ids
        #[arg(value_name = "ID", required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunCommandArgs {
    /// The flags of RunPod's Python worker.
    #[command(flatten)]
    pub python: PythonArgs,
    /// The worker's own flags.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The address for jobs, and how many may wait.
    #[command(flatten)]
    pub direct: DirectArgs,
    /// The flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = OTHER_FLAGS, mut_args(|arg| hide_unless(arg, &CHECK_FLAGS)))]
pub struct CheckCommandArgs {
    /// The flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `run` that `check --help` shows.
const CHECK_FLAGS: [&str; 9] = [
    "device",
    "load_stall_timeout",
    "min_gpu_memory",
    "check_network",
    "spool_dir",
    "log_format",
    "log_level",
    "handler",
    "help",
];

/// Flags that `test --help` shows.
const TEST_FLAGS: [&str; 10] = [
    "input",
    "test_input",
    "device",
    "load_stall_timeout",
    "job_timeout",
    "cancel_grace",
    "log_format",
    "log_level",
    "handler",
    "help",
];

const OTHER_FLAGS: &str = "The other flags of `run` are accepted too: see `runpod-worker run --help`.";

/// Leaves flags of `run` out of the help of a command for which they do not matter.
fn hide_unless(arg: Arg, shown: &[&str]) -> Arg {
    let hidden = !shown.contains(&arg.get_id().as_str());
    arg.hide(hidden)
}

/// Arguments of `test`.
#[derive(Debug, Args)]
#[command(after_help = OTHER_FLAGS, mut_args(|arg| hide_unless(arg, &TEST_FLAGS)))]
pub struct TestArgs {
    /// File with the job, `{"input": …}`; `-` for standard input [default: test_input.json]
    #[arg(long, value_name = "FILE", conflicts_with = "test_input")]
    pub input: Option<PathBuf>,
    /// The job itself instead of a file
    #[arg(long = "test-input", alias = "test_input", value_name = "JSON")]
    pub test_input: Option<String>,
    /// The flags of `run`.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn help(command: &str) -> String {
        let mut cli = Cli::command();
        cli.find_subcommand_mut(command).unwrap().render_long_help().to_string()
    }

    #[test]
    fn help_of_run_is_in_groups() {
        let help = help("run");
        for heading in ["Job handling:", "Shutdown:", "Results:", "Handler process:", "GPU:", "Logs:", "Alerts:"] {
            assert!(help.contains(heading), "{heading} is missing in:\n{help}");
        }
        let options = help.split("Options:").nth(1).unwrap().split("\n\n  -h").next().unwrap();
        assert!(options.contains("--check-config") && !options.contains("--slots"), "{options}");
    }

    #[test]
    fn help_of_test_and_check_shows_only_what_matters_there() {
        for (command, flag) in [("test", "--test-input"), ("check", "--check-network")] {
            let help = help(command);
            assert!(help.contains(flag) && help.contains("--device"), "{help}");
            assert!(!help.contains("--drain-grace") && !help.contains("--alert-webhook"), "{help}");
        }
        let hidden = ["runpod-worker", "test", "--drain-grace=1s", "--", "handler"];
        assert!(Cli::try_parse_from(hidden).is_ok(), "a flag that is not shown is still accepted");
    }
}
