//! The flags of `batch`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::client::{EndpointArgs, TargetArgs};
use super::parse::batch_name;

/// `batch`
#[derive(Debug, Args)]
pub struct BatchArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BatchCommand,
}

/// The subcommands of `batch`.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Submit a file of inputs, follow the progress, and print the results in the order of the inputs
    Submit(BatchSubmitArgs),
    /// List the batches, newest first
    List(EndpointArgs),
    /// Print the state of a batch
    Status(BatchIdArgs),
    /// Print the results of a batch, one a line, in the order of the inputs
    Results(BatchIdArgs),
    /// Cancel the requests of a batch that wait; those that run end as they would
    Cancel(BatchIdArgs),
}

/// `batch submit`
#[derive(Debug, Args)]
#[command(after_help = "\
Each line of the file is the input of one job, as JSON. A JSON object with a top-level `input` is sent as it
is, as a whole request. Empty lines and byte order marks are skipped. The jobs run when no other job waits.

Progress goes to standard error, results to standard output: one document a line, with the id, the status and
the output or the error. Exit status: 0 if all are COMPLETED, 1 if one has failed or was cancelled, 3 if the
whole batch was cancelled.

Ctrl-C while the file is sent cancels the batch, and a second one does not wait for that; after that the batch
goes on, and the commands for its results and for its end are printed. The end of the terminal is like Ctrl-C.

Examples:
  runpod-endpoint batch submit inputs.jsonl > results.jsonl
  runpod-endpoint batch submit --detach --name nightly inputs.jsonl")]
pub struct BatchSubmitArgs {
    /// Where to send it.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The file, or `-` for standard input
    #[arg(value_name = "FILE", help_heading = "Input")]
    pub file: PathBuf,
    /// What to call the batch
    #[arg(long, value_name = "NAME", value_parser = batch_name, help_heading = "Batch")]
    pub name: Option<String>,
    /// Print the id of the batch and do not wait for its end
    #[arg(long, help_heading = "Output")]
    pub detach: bool,
}

/// `batch status`, `results` and `cancel`
#[derive(Debug, Args)]
pub struct BatchIdArgs {
    /// Where to ask.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The id that `batch submit` printed
    #[arg(value_name = "BATCH", help_heading = "Batch")]
    pub batch: String,
}
