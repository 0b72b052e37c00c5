//! Subcommands.

mod args;
mod ask;
mod config;
mod dev;
mod exit;
mod follow;
mod health;
mod http;
mod jobs;
mod open;
mod outcome;
mod output;
mod print;
mod probe;
mod request;
mod serve;
mod signals;
mod top;
mod workers;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use signals::StopRequests;

pub use args::{Cli, Command};
pub use exit::Exit;
pub use output::Output;

/// The whole program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes. Printing fails only when nobody reads.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    let mut output = Output::default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = format!("cannot start threads: {error}; free memory or raise the process limit");
            return output.fail(&text, Exit::Failure).into();
        }
    };
    runtime.block_on(run(cli.command, &mut output)).into()
}

async fn run(command: Command, output: &mut Output) -> Exit {
    let outcome = match &command {
        Command::Serve(args) => {
            start_log();
            return match StopRequests::watch() {
                Ok(stops) => serve::serve(args, stops, output).await,
                Err(error) => output.fail(&signals::unwatched(&error), Exit::Failure),
            };
        }
        Command::Dev(args) => {
            start_log();
            return match StopRequests::watch() {
                Ok(stops) => dev::dev(args, stops, output).await,
                Err(error) => output.fail(&signals::unwatched(&error), Exit::Failure),
            };
        }
        Command::Probe(args) => return probe::probe(args, output).await,
        Command::Submit(args) => jobs::submit(args, output).await,
        Command::Status(args) => jobs::status(args, output).await,
        Command::Watch(args) => jobs::watch(args, output).await,
        Command::Stream(args) => jobs::stream(args, output).await,
        Command::Cancel(args) => jobs::cancel(args, output).await,
        Command::Retry(args) => jobs::retry(args, output).await,
        Command::Requests(args) => jobs::requests(args, output).await,
        Command::Purge(args) => jobs::purge(args, output).await,
        Command::Health(args) => health::health(args, output).await,
        Command::Top(args) => top::top(args, output).await,
    };
    outcome.unwrap_or_else(|error| output.fail(&error, error.exit()))
}

/// Logs of the server, as text on standard error; `RUST_LOG` sets the level.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
}
