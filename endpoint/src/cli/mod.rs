//! Subcommands.

mod addresses;
mod args;
mod ask;
mod batch;
mod config;
mod database;
mod dev;
mod effective;
mod example;
mod exit;
mod follow;
mod health;
mod http;
mod jobs;
mod log;
mod open;
mod operations;
mod outcome;
mod output;
mod pages;
mod pairs;
mod print;
mod probe;
mod request;
mod serve;
mod signals;
mod start;
mod top;
mod workers;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use effective::Effective;

pub use args::{Cli, Command};
pub use exit::Exit;
pub use output::Output;

/// The whole program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut output = Output::default();
    let mut command = Cli::command();
    let args: Vec<OsString> = args.into_iter().collect();
    let parsed = command.try_get_matches_from_mut(args.iter().cloned()).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        let given = matches.subcommand().and_then(|(name, given)| Some((command.find_subcommand(name)?, given)));
        let effective = given.map(|(command, given)| Effective::of(command, given)).unwrap_or_default();
        Ok((cli, effective))
    });
    let (cli, effective) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() {
                if error.kind() == ErrorKind::ArgumentConflict
                    && let Some(tip) = from_environment(&command, &args)
                {
                    return output.fail(&tip, Exit::Usage).into();
                }
                return Exit::Usage.into();
            }
            // Help and version are not mistakes.
            output.written(printed.and_then(|()| std::io::stdout().flush()));
            return output.end(Exit::Success).into();
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = format!("cannot start threads: {error}; free memory or raise the process limit");
            return output.fail(&text, Exit::Failure).into();
        }
    };
    let exit = runtime.block_on(run(cli.command, effective, &mut output));
    output.end(exit).into()
}

/// Of a conflict between options, those that nobody gave on the command line.
fn from_environment(command: &clap::Command, args: &[OsString]) -> Option<String> {
    let given = command.find_subcommand(args.get(1)?)?;
    let is_set = |arg: &&clap::Arg| {
        let option = arg.get_long().map(|name| format!("--{name}")).unwrap_or_default();
        let is_given = args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg.split('=').next() == Some(&option));
        !is_given && arg.get_env().is_some_and(|name| std::env::var_os(name).is_some())
    };
    let name = |arg: &clap::Arg| Some(format!("{} (--{})", arg.get_env()?.to_string_lossy(), arg.get_long()?));
    let names: Vec<String> = given.get_arguments().filter(is_set).filter_map(name).collect();
    (!names.is_empty()).then(|| format!("set in the environment: {}; unset what is not meant", names.join(", ")))
}

async fn run(command: Command, effective: Effective, output: &mut Output) -> Exit {
    let outcome = match &command {
        Command::Serve(args) => return serve::serve(args, effective, output).await,
        Command::Dev(args) => return dev::dev(args, effective, output).await,
        Command::Database(args) => return database::database(args, output).await,
        Command::Probe(args) => return probe::probe(args, output).await,
        Command::Submit(args) => jobs::submit(args, output).await,
        Command::Status(args) => jobs::status(args, output).await,
        Command::Watch(args) => jobs::watch(args, output).await,
        Command::Stream(args) => jobs::stream(args, output).await,
        Command::Cancel(args) => jobs::cancel(args, output).await,
        Command::Retry(args) => operations::retry(args, output).await,
        Command::Failed(args) => operations::failed(args, output).await,
        Command::Pause(args) => operations::pause(args, output).await,
        Command::Resume(args) => operations::resume(args, output).await,
        Command::Batch(args) => batch::batch(args, output).await,
        Command::Webhooks(args) => operations::webhooks(args, output).await,
        Command::Requests(args) => jobs::requests(args, output).await,
        Command::Purge(args) => jobs::purge(args, output).await,
        Command::Health(args) => health::health(args, output).await,
        Command::Top(args) => top::top(args, output).await,
    };
    outcome.unwrap_or_else(|error| output.fail(&error, error.exit()))
}
