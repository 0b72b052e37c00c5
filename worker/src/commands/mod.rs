//! One function per command of the command line, each ending in an exit status.

mod check;
mod dead_letters;
mod probe;
mod run;
mod schema;
mod test;

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::{Config, EXIT_CONFIG, ProcessEnvironment, RunArgs};
use crate::telemetry::{self, LogGuard};

pub use schema::SchemaError;
pub use test::{TestError, TestReport};

/// Carries out what the command line says.
pub fn execute(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(1, &format!("cannot start the async runtime: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(&args).await,
            Command::Test(args) => test::test_command(*args).await,
            Command::Check(args) => check::check_command(&args).await,
            Command::Schema(args) => schema::schema_command(args).await,
            Command::Probe(args) => probe::probe_command(&args).await,
            Command::DeadLetters(args) => dead_letters::dead_letters_command(args).await,
        }
    });
    // Whatever still waits for the network is not worth waiting for.
    runtime.shutdown_background();
    code
}

/// Reads the configuration; on mistakes prints all of them and answers the exit status.
fn configure(args: &RunArgs) -> Result<Config, ExitCode> {
    Config::load(args, &ProcessEnvironment).map_err(|errors| complain(EXIT_CONFIG, &errors.to_string()))
}

/// Sets up the log. The guard must live until the command is over.
fn start_log(config: &Config, out: impl io::Write + Send + 'static) -> Result<LogGuard, ExitCode> {
    if let Some(queue) = &config.queue {
        telemetry::redact::add(queue.key.expose());
    }
    telemetry::init(config.log.format, config.log.level, &config.identity.worker_id, out)
        .map_err(|error| complain(1, &error.to_string()))
}

/// Says on stderr what went wrong.
fn complain(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "runpod-worker: {message}");
    ExitCode::from(code)
}

/// Prints a result on stdout.
fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(1, &format!("cannot write to standard output: {error}")),
    }
}
