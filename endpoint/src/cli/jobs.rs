//! `submit`, `status`, `watch`, `stream`, `cancel`, `requests` and `purge`.

use runpod_log_line::printable;
use tokio::time::sleep;

use super::args::{EndpointArgs, JobArgs, SubmitArgs, WatchArgs};
use super::ask::{FIRST_PAUSE, ask};
use super::exit::Exit;
use super::follow::{Shown, follow};
use super::http::{Endpoint, Job, Purged, Requests, Stream};
use super::outcome::CommandResult;
use super::output::Output;
use super::print::{exit_for, note_failure, print_end, print_result, print_value};
use super::request;
use crate::store::Status;

/// How long one `/stream` request is held, in milliseconds.
const STREAM_WAIT_MS: u32 = 10_000;

pub(crate) async fn submit(args: &SubmitArgs, output: &mut Output) -> CommandResult {
    let body = request::build(args)?;
    let endpoint = Endpoint::new(&args.target.server)?;
    let as_json = args.target.json;
    if args.sync {
        let reply = endpoint.submit("runsync", body, args.idempotency_key.as_deref()).await?;
        let job: Job = serde_json::from_str(&reply)?;
        if job.status.is_terminal() {
            return Ok(print_end(&job, &reply, as_json, output));
        }
        let shown = Shown { changes: false, items: false, as_json };
        return follow(&endpoint, &job.id, None, shown, output).await;
    }
    let reply = endpoint.submit("run", body, args.idempotency_key.as_deref()).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(&if as_json { reply.trim_end().into() } else { printable(&job.id) });
    if !args.watch {
        return Ok(Exit::Success);
    }
    // No other client knows the job yet, so reading its stream takes nothing from anyone.
    let shown = Shown { changes: true, items: true, as_json };
    follow(&endpoint, &job.id, Some(job.status), shown, output).await
}

pub(crate) async fn status(args: &JobArgs, output: &mut Output) -> CommandResult {
    let reply = Endpoint::new(&args.target.server)?.get(&Endpoint::job_path("status", &args.job)?).await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let job: Job = serde_json::from_str(&reply)?;
    output.line(job.status.name());
    print_result(&job, output);
    Ok(Exit::Success)
}

pub(crate) async fn watch(args: &WatchArgs, output: &mut Output) -> CommandResult {
    let target = &args.job.target;
    let shown = Shown { changes: true, items: args.stream, as_json: target.json };
    follow(&Endpoint::new(&target.server)?, &args.job.job, None, shown, output).await
}

pub(crate) async fn stream(args: &JobArgs, output: &mut Output) -> CommandResult {
    let endpoint = Endpoint::new(&args.target.server)?;
    let path = format!("{}?wait={STREAM_WAIT_MS}", Endpoint::job_path("stream", &args.job)?);
    loop {
        let reply: Stream = serde_json::from_str(&ask(&endpoint, &path, output).await?)?;
        for item in &reply.stream {
            if args.target.json { output.line(item.output.get()) } else { print_value(&item.output, output) }
        }
        if reply.status == Status::Cancelled || (reply.status.is_terminal() && reply.stream.is_empty()) {
            if reply.status != Status::Completed {
                let reply = ask(&endpoint, &Endpoint::job_path("status", &args.job)?, output).await?;
                note_failure(&serde_json::from_str(&reply)?, output);
            }
            return Ok(exit_for(reply.status));
        }
        if output.is_closed() {
            return Ok(Exit::Failure);
        }
        if reply.stream.is_empty() {
            // Some endpoints answer at once: without a pause this would be a tight loop.
            sleep(FIRST_PAUSE).await;
        }
    }
}

pub(crate) async fn cancel(args: &JobArgs, output: &mut Output) -> CommandResult {
    let reply =
        Endpoint::new(&args.target.server)?.post(&Endpoint::job_path("cancel", &args.job)?, String::new()).await?;
    let job: Job = serde_json::from_str(&reply)?;
    output.line(if args.target.json { reply.trim_end() } else { job.status.name() });
    Ok(Exit::Success)
}

pub(crate) async fn requests(args: &EndpointArgs, output: &mut Output) -> CommandResult {
    let reply = Endpoint::new(&args.target.server)?.get("requests").await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let Requests { requests } = serde_json::from_str(&reply)?;
    for job in requests {
        output.line(&format!("{}  {}", printable(&job.id), job.status.name()));
    }
    Ok(Exit::Success)
}

pub(crate) async fn purge(args: &EndpointArgs, output: &mut Output) -> CommandResult {
    let reply = Endpoint::new(&args.target.server)?.post("purge-queue", String::new()).await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    let Purged { removed } = serde_json::from_str(&reply)?;
    output.line(&format!("CANCELLED: {removed}"));
    Ok(Exit::Success)
}
