//! `submit`, `status`, `watch`, `stream`, `cancel` and `health`.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::Exit;
use super::args::{HealthArgs, JobArgs, SubmitArgs};
use super::http::{Chunks, ClientError, Endpoint, Job};
use super::output::Output;
use super::request::{self, RequestError};
use crate::store::Status;

/// Pause between two questions about a job: short at first, for jobs that end at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
}

impl CommandError {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
        if matches!(self, Self::Request(_)) { Exit::Usage } else { Exit::Failure }
    }
}

type Outcome = Result<Exit, CommandError>;

pub(crate) async fn submit(args: &SubmitArgs, output: &mut Output) -> Outcome {
    let body = request::build(args)?;
    let endpoint = Endpoint::new(&args.target)?;
    let as_json = args.target.json;
    if args.sync {
        let reply = endpoint.post("runsync", body).await?;
        let job: Job = serde_json::from_str(&reply)?;
        if job.status.is_terminal() {
            return Ok(print_end(&job, &reply, as_json, output));
        }
        return follow(&endpoint, &job.id, None, output, |_, _| {}, as_json).await;
    }
    let reply = endpoint.post("run", body).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(if as_json { reply.trim_end() } else { &job.id });
    if args.watch { watch_job(&endpoint, &job.id, Some(job.status), as_json, output).await } else { Ok(Exit::Success) }
}

pub(crate) async fn status(args: &JobArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target)?.get(&format!("status/{}", args.job)).await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let job: Job = serde_json::from_str(&reply)?;
    output.line(job.status.name());
    print_result(&job, output);
    Ok(Exit::Success)
}

pub(crate) async fn watch(args: &JobArgs, output: &mut Output) -> Outcome {
    watch_job(&Endpoint::new(&args.target)?, &args.job, None, args.target.json, output).await
}

/// `known` is the state that the job was last known to be in.
async fn watch_job(
    endpoint: &Endpoint,
    job: &str,
    known: Option<Status>,
    as_json: bool,
    output: &mut Output,
) -> Outcome {
    let started = Instant::now();
    let report = |status: Status, output: &mut Output| {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let elapsed = started.elapsed();
        if as_json {
            let line = json!({
                "elapsedMs": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                "status": status,
                "timestamp": time.to_string(),
            });
            output.line(&line.to_string());
        } else {
            output.line(&format!("{time}  +{:.1}s  {}", elapsed.as_secs_f64(), status.name()));
        }
    };
    follow(endpoint, job, known, output, report, as_json).await
}

/// Asks until the job has ended, reports each change of state and prints the end.
async fn follow(
    endpoint: &Endpoint,
    job: &str,
    known: Option<Status>,
    output: &mut Output,
    report: impl Fn(Status, &mut Output),
    as_json: bool,
) -> Outcome {
    let mut seen = known;
    if let Some(status) = known {
        report(status, output);
    }
    let mut pause = FIRST_PAUSE;
    loop {
        let reply = ask(endpoint, &format!("status/{job}"), output).await?;
        let job: Job = serde_json::from_str(&reply)?;
        if seen == Some(Status::InQueue) && job.status.is_terminal() && job.execution_time.is_some() {
            // It was quicker than the questions, but a job with an execution time has been in progress.
            report(Status::InProgress, output);
        }
        if seen.replace(job.status) != Some(job.status) {
            report(job.status, output);
        }
        if job.status.is_terminal() {
            return Ok(print_end(&job, &reply, as_json, output));
        }
        if output.is_closed() {
            return Ok(Exit::Failure);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

pub(crate) async fn stream(args: &JobArgs, output: &mut Output) -> Outcome {
    let endpoint = Endpoint::new(&args.target)?;
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
    let reply = Endpoint::new(&args.target)?.post(&format!("cancel/{}", args.job), String::new()).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(if args.target.json { reply.trim_end() } else { job.status.name() });
    Ok(Exit::Success)
}

pub(crate) async fn health(args: &HealthArgs, output: &mut Output) -> Outcome {
    let reply = Endpoint::new(&args.target)?.get("health").await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let health: serde_json::Value = serde_json::from_str(&reply)?;
    for (group, counters) in health.as_object().into_iter().flatten() {
        let counters = counters.as_object().into_iter().flatten();
        let text: Vec<_> = counters.map(|(name, count)| format!("{name} {count}")).collect();
        output.line(&format!("{group:<8} {}", text.join("  ")));
    }
    Ok(Exit::Success)
}

/// A question that is repeated over short troubles.
async fn ask(endpoint: &Endpoint, path: &str, output: &mut Output) -> Result<String, ClientError> {
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

fn note_retry(error: &impl Display, output: &mut Output) {
    output.note(&format!("runpod-endpoint: {error}; trying again"));
}

fn print_end(job: &Job, reply: &str, as_json: bool, output: &mut Output) -> Exit {
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
fn plain(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

fn exit_for(status: Status) -> Exit {
    match status {
        Status::Failed | Status::TimedOut => Exit::Failure,
        Status::Cancelled => Exit::Cancelled,
        Status::Completed | Status::InQueue | Status::InProgress => Exit::Success,
    }
}
