//! One function for each command of the command line. Each returns an exit status.

mod alerts;
mod check;
mod dead_letters;
mod endpoint_readings;
mod fixed_limits;
mod libtorch;
mod lifecycle;
mod new;
mod probe;
mod run;
mod schema;
mod serve;
mod test;
mod workspace;

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use percent_encoding::percent_decode_str;
use runpod_log_line::printable;

use crate::cli::{Cli, Command};
use crate::config::{Config, EXIT_CONFIG, Environment as _, ProcessEnvironment, RunArgs};
use crate::logs::{self, LogGuard, Sink, redact};

pub use libtorch::LibtorchError;
pub use new::{NewError, SdkError};
pub use schema::SchemaError;
pub use test::{TestError, TestReport};

/// Runs the command of the command line.
pub fn execute(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(1, &format!("cannot start the async runtime: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(&args).await,
            Command::Serve(args) => serve::serve_command(&args).await,
            Command::Test(args) => test::test_command(*args).await,
            Command::Check(args) => check::check_command(&args.run).await,
            Command::Schema(args) => schema::schema_command(args).await,
            Command::New(args) => new::new_command(&args),
            Command::Libtorch(args) => libtorch::libtorch_command(&args),
            Command::Probe(args) => probe::probe_command(&args).await,
            Command::DeadLetters(args) => dead_letters::dead_letters_command(args).await,
            Command::Alerts(args) => alerts::alerts_command(&args).await,
        }
    });
    // Tasks that still wait for the network are not waited for.
    runtime.shutdown_background();
    code
}

/// Reads the configuration. Prints all mistakes, if there are any, and returns the exit status.
fn configure(args: &RunArgs) -> Result<Config, ExitCode> {
    Config::load(args, &ProcessEnvironment).map_err(|errors| complain(EXIT_CONFIG, &errors.to_string()))
}

/// Sets up the log. The guard must live until the command is over.
fn start_log(config: &Config, sink: Option<&Sink>, out: impl io::Write + Send + 'static) -> Result<LogGuard, ExitCode> {
    hide_secrets(config);
    logs::init(&config.log, &config.identity.worker_id, sink, out).map_err(|error| complain(1, &error.to_string()))
}

/// Adds the secrets among settings and variables to what is redacted in the log.
fn hide_secrets(config: &Config) {
    const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
    let env = ProcessEnvironment;
    let variables = env.names().into_iter().filter_map(|name| env.get(&name).map(|value| (name, value)));
    redact::add_variables(variables);
    for headers in HEADERS.iter().filter_map(|name| env.get(name)) {
        for (_, value) in headers.split(',').filter_map(|pair| pair.split_once('=')) {
            // A handler that sends them decodes them, and may use the secret without its scheme.
            let sent = percent_decode_str(value.trim()).decode_utf8_lossy();
            let bare = sent.rsplit(' ').next().unwrap_or_default();
            [value, &*sent, bare].into_iter().for_each(redact::add);
        }
    }
    if let Some(webhook) = &config.alerts.webhook {
        redact::add(webhook.expose());
    }
    // Also as it was written: the parsed URL may be spelled differently.
    env.get("RUNPOD_WORKER_ALERT_WEBHOOK").iter().for_each(|webhook| redact::add(webhook));
    let keys = config.queue.iter().map(|queue| &queue.key).chain(config.log_sink.iter().map(|sink| &sink.token));
    keys.for_each(|key| redact::add(key.expose()));
}

/// Prints an error on stderr; returns the exit status.
fn complain(code: u8, message: &str) -> ExitCode {
    // Messages may quote what comes from outside, such as the id of a job.
    let _ = writeln!(io::stderr(), "runpod-worker: {}", printable_lines(message));
    ExitCode::from(code)
}

/// Prints a result on stdout.
fn print(text: &str) -> ExitCode {
    // A program that reads the output gets it as it is.
    let text = if io::stdout().is_terminal() { Cow::Owned(printable_lines(text)) } else { Cow::Borrowed(text) };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(1, &format!("cannot write to standard output: {error}")),
    }
}

/// Each line with everything escaped that a terminal would act on.
fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
