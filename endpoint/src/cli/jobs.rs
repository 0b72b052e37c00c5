//! `submit`, `status`, `stream`, `cancel`, `retry`, `requests` and `purge`.

use std::fmt::Display;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::sleep;

use super::Exit;
use super::args::{EndpointArgs, JobArgs, SubmitArgs};
use super::http::{Chunks, ClientError, Endpoint, Job, Purged, Requests};
use super::output::Output;
use super::request::{self, RequestError};
use super::watch::{Wanted, follow};
use crate::store::Status;

/// Pause between two questions about a job: short at first, for jobs that end at once.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Failed questions in a row before giving up.
const PATIENCE: u32 = 5;

/// How long one `/stream` question is held, in milliseconds.
const STREAM_WAIT_MS: u32 = 10_000;

/// Why a client command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Nothing to submit.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A reply in another shape.
    #[error("the reply is not the expected JSON: {0}; check that --url names an endpoint (…/v2/<endpoint id>)")]
    Reply(#[from] serde_json::Error),
    /// The system does not let signals be watched.
    #[error("{}", super::signals::unwatched(.0))]
    Signals(#[source] std::io::Error),
    /// The terminal cannot be used.
    #[error("the terminal cannot be used: {0}; try another one, or `runpod-endpoint health --watch`")]
    Terminal(#[source] std::io::Error),
}

impl CommandError {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
        if matches!(self, Self::Request(_)) { Exit::Usage } else { Exit::Failure }
    }
}

pub(super) type Outcome = Result<Exit, CommandError>;

pub(crate) async fn submit(args: &SubmitArgs, output: &mut Output) -> Outcome {
    let body = request::build(args)?;
    let endpoint = Endpoint::new(&args.target.server)?;
    let as_json = args.target.json;
    if args.sync {
        let reply = endpoint.post("runsync", body).await?;
        let job: Job = serde_json::from_str(&reply)?;
        if job.status.is_terminal() {
            return Ok(print_end(&job, &reply, as_json, output));
        }
        let wanted = Wanted { changes: false, items: false, as_json };
        return follow(&endpoint, &job.id, None, wanted, output).await;
    }
    let reply = endpoint.post("run", body).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(if as_json { reply.trim_end() } else { &job.id });
    if !args.watch {
        return Ok(Exit::Success);
    }
    // Nobody else knows the job yet: its stream is ours.
    let wanted = Wanted { changes: true, items: true, as_json };
    follow(&endpoint, &job.id, Some(job.status), wanted, output).await
}

pub(crate) async fn status(args: &JobArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target.server)?.get(&format!("status/{}", args.job)).await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let job: Job = serde_json::from_str(&reply)?;
    output.line(job.status.name());
    print_result(&job, output);
    Ok(Exit::Success)
}

pub(crate) async fn stream(args: &JobArgs, output: &mut Output) -> Outcome {
    let endpoint = Endpoint::new(&args.target.server)?;
    let path = format!("stream/{}?wait={STREAM_WAIT_MS}", args.job);
    loop {
        let chunks: Chunks = serde_json::from_str(&ask(&endpoint, &path, output).await?)?;
        for chunk in &chunks.stream {
            if args.target.json { output.line(chunk.output.get()) } else { print_value(&chunk.output, output) }
        }
        if chunks.status == Status::Cancelled || (chunks.status.is_terminal() && chunks.stream.is_empty()) {
            if chunks.status != Status::Completed {
                let reply = ask(&endpoint, &format!("status/{}", args.job), output).await?;
                note_failure(&serde_json::from_str(&reply)?, output);
            }
            return Ok(exit_for(chunks.status));
        }
        if output.is_closed() {
            return Ok(Exit::Failure);
        }
        if chunks.stream.is_empty() {
            // An endpoint that does not hold the question must not be asked in a tight loop.
            sleep(FIRST_PAUSE).await;
        }
    }
}

pub(crate) async fn cancel(args: &JobArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target.server)?.post(&format!("cancel/{}", args.job), String::new()).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(if args.target.json { reply.trim_end() } else { job.status.name() });
    Ok(Exit::Success)
}

pub(crate) async fn retry(args: &JobArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target.server)?.post(&format!("retry/{}", args.job), String::new()).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(if args.target.json { reply.trim_end() } else { job.status.name() });
    Ok(Exit::Success)
}

pub(crate) async fn requests(args: &EndpointArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target.server)?.get("requests").await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let Requests { requests } = serde_json::from_str(&reply)?;
    for job in requests {
        output.line(&format!("{}  {}", job.id, job.status.name()));
    }
    Ok(Exit::Success)
}

pub(crate) async fn purge(args: &EndpointArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target.server)?.post("purge-queue", String::new()).await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let Purged { removed } = serde_json::from_str(&reply)?;
    output.line(&format!("CANCELLED: {removed}"));
    Ok(Exit::Success)
}

/// A question that is repeated over short troubles.
pub(super) async fn ask(endpoint: &Endpoint, path: &str, output: &mut Output) -> Result<String, ClientError> {
    let mut failures = 0;
    loop {
        match endpoint.get(path).await {
            Err(error) if error.is_passing() && failures < PATIENCE => {
                failures += 1;
                note_retry(&error, output);
                sleep(LONGEST_PAUSE * failures).await;
            }
            answer => return answer,
        }
    }
}

pub(super) fn note_retry(error: &impl Display, output: &mut Output) {
    output.note(&format!("runpod-endpoint: {error}; trying again"));
}

pub(super) fn print_end(job: &Job, reply: &str, as_json: bool, output: &mut Output) -> Exit {
    if as_json {
        output.line(reply.trim_end());
    } else {
        print_result(job, output);
    }
    exit_for(job.status)
}

fn print_result(job: &Job, output: &mut Output) {
    if let Some(value) = &job.output {
        print_value(value, output);
    }
    note_failure(job, output);
}

fn note_failure(job: &Job, output: &mut Output) {
    if let Some(error) = &job.error {
        output.note(&format!("{}: {}", job.status.name(), plain(error)));
    }
}

fn print_value(value: &RawValue, output: &mut Output) {
    output.line(&plain(value));
}

/// A JSON string without its quotes; any other JSON as it is.
pub(super) fn plain(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

fn exit_for(status: Status) -> Exit {
    match status {
        Status::Failed | Status::TimedOut => Exit::Failure,
        Status::Cancelled => Exit::Cancelled,
        Status::Completed | Status::InQueue | Status::InProgress => Exit::Success,
    }
}
