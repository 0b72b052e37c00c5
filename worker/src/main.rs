//! The worker program: arguments in, one command, an exit status out.

use std::process::ExitCode;

use clap::Parser as _;
use runpod_worker::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // clap would exit with 2; here every mistake in the configuration has the same status.
        let _ = error.print();
        let help = matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
        std::process::exit(if help { 0 } else { i32::from(runpod_worker::config::EXIT_CONFIG) })
    });
    runpod_worker::commands::execute(cli)
}
