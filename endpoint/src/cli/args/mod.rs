//! The command line.

mod batch;
mod client;
mod database;
mod parse;
mod server;
mod workers;

use clap::{Parser, Subcommand};

pub(crate) use batch::{BatchArgs, BatchCommand, BatchIdArgs, BatchSubmitArgs};
pub(crate) use client::{
    EndpointArgs, HealthArgs, JobArgs, ProbeArgs, ProbeKind, RetryArgs, ServerArgs, SubmitArgs, TargetArgs, TopArgs,
    WatchArgs, WebhooksArgs,
};
pub(crate) use database::{DatabaseArgs, DatabaseCommand, DatabaseTarget, DatabaseTransfer};
pub(crate) use parse::{WebhookSchedule, endpoint_id, is_endpoint_url};
pub(crate) use server::{
    AlertArgs, AlertFormat, ConnectionArgs, DevArgs, FaultArgs, KeyArgs, ListenArgs, LogArgs, RateLimitChoice,
    ServeArgs, WebhookArgs,
};
pub(crate) use workers::WorkerArgs;

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
    /// Queue a FAILED or TIMED_OUT job again, or all of them
    Retry(RetryArgs),
    /// List the FAILED and TIMED_OUT jobs, newest first
    Failed(EndpointArgs),
    /// List the jobs that have not ended
    Requests(EndpointArgs),
    /// Cancel every job that no worker has taken
    Purge(EndpointArgs),
    /// Run thousands of inputs as one batch, when no other job waits
    Batch(BatchArgs),
    /// Accept jobs, but give none to workers
    Pause(EndpointArgs),
    /// Give jobs to workers again
    Resume(EndpointArgs),
    /// List the webhooks whose delivery was given up, or send them again
    Webhooks(WebhooksArgs),
    /// Print the counters of jobs and workers
    Health(HealthArgs),
    /// Show queue, workers, jobs and GPUs, live, in the terminal
    Top(TopArgs),
    /// Prepare or check the database that several endpoints share
    Database(DatabaseArgs),
    /// Ask the server in this container whether it is live, or ready for jobs: exit status 0, or 1 with the reason
    Probe(ProbeArgs),
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_a_server_stands_in_a_group() {
        let command = Cli::command();
        for name in ["serve", "dev"] {
            for flag in command.find_subcommand(name).unwrap().get_opts() {
                assert!(flag.get_help_heading().is_some(), "--{} of {name}", flag.get_id());
            }
        }
    }

    #[test]
    fn the_group_of_the_endpoint_names_only_the_endpoint() {
        for command in Cli::command().get_subcommands() {
            let grouped = command.get_arguments().filter(|argument| argument.get_help_heading() == Some("Endpoint"));
            for argument in grouped {
                let name = argument.get_id().as_str();
                assert!(["url", "api_key"].contains(&name), "{name} of {}", command.get_name());
            }
        }
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
            (&["--workers", "2"], (2, 2)),
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
