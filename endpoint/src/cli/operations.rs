//! `pause`, `resume`, `failed`, `retry` and `webhooks`.

use runpod_log_line::printable;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::args::{EndpointArgs, RetryArgs, TargetArgs, WebhooksArgs};
use super::exit::Exit;
use super::http::{Endpoint, Job};
use super::outcome::CommandResult;
use super::output::Output;
use super::pages::Pages;
use super::print::plain;
use crate::store::Status;

pub(crate) async fn pause(args: &EndpointArgs, output: &mut Output) -> CommandResult {
    const MEANING: &str =
        "PAUSED until `runpod-endpoint resume`: jobs are accepted and wait, a load balancer refuses requests";
    post(&args.target, "pause", MEANING, output).await
}

pub(crate) async fn resume(args: &EndpointArgs, output: &mut Output) -> CommandResult {
    post(&args.target, "resume", "RESUMED", output).await
}

/// Sends a request without a body, and prints its reply or what it means.
async fn post(target: &TargetArgs, path: &str, meaning: &str, output: &mut Output) -> CommandResult {
    let reply = Endpoint::new(&target.server)?.post(path, String::new()).await?;
    output.line(if target.json { reply.trim_end() } else { meaning });
    Ok(Exit::Success)
}

pub(crate) async fn failed(args: &EndpointArgs, output: &mut Output) -> CommandResult {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Failed {
        jobs: Vec<Box<RawValue>>,
        has_more: bool,
    }
    let endpoint = Endpoint::new(&args.target.server)?;
    let mut pages = Pages::new(&endpoint, "failed");
    loop {
        let page: Failed = pages.next(output).await?;
        for text in &page.jobs {
            if args.target.json {
                output.line(text.get());
                continue;
            }
            let job: Job = serde_json::from_str(text.get())?;
            let error = job.error.as_deref().map(plain).unwrap_or_default();
            let (id, status) = (printable(&job.id), job.status.name());
            output.line(format!("{id}  {status}  {}", printable(error.lines().next().unwrap_or_default())).trim_end());
        }
        pages.take(page.jobs.len());
        if !page.has_more || output.is_closed() {
            return Ok(Exit::Success);
        }
    }
}

pub(crate) async fn retry(args: &RetryArgs, output: &mut Output) -> CommandResult {
    #[derive(Deserialize)]
    struct Retried {
        retried: u64,
        #[serde(default)]
        left: u64,
        reason: Option<String>,
    }
    let endpoint = Endpoint::new(&args.target.server)?;
    let path = match &args.job {
        Some(job) => Endpoint::job_path("retry", job)?,
        None => "retry-failed".to_owned(),
    };
    let reply = endpoint.post(&path, String::new()).await?;
    if args.target.json {
        output.line(reply.trim_end());
    }
    if args.job.is_some() {
        let job: Job = serde_json::from_str(&reply)?;
        if !args.target.json {
            output.line(job.status.name());
        }
        return Ok(Exit::Success);
    }
    let Retried { retried, left, reason } = serde_json::from_str(&reply)?;
    if !args.target.json {
        output.line(&format!("{}: {retried}", Status::InQueue.name()));
    }
    if left == 0 {
        return Ok(Exit::Success);
    }
    output.note(&printable(&format!("{left} failed jobs are left: {}", reason.unwrap_or_default())));
    Ok(Exit::Failure)
}

pub(crate) async fn webhooks(args: &WebhooksArgs, output: &mut Output) -> CommandResult {
    #[derive(Deserialize)]
    struct Resent {
        resent: u64,
    }
    let endpoint = Endpoint::new(&args.target.server)?;
    let path = match (&args.resend, args.resend_all) {
        (Some(job), _) => Endpoint::job_path("webhooks/resend", job)?,
        (None, true) => "webhooks/resend".to_owned(),
        (None, false) => return list_webhooks(&endpoint, args.target.json, output).await,
    };
    let reply = endpoint.post(&path, String::new()).await?;
    if args.target.json {
        output.line(reply.trim_end());
    } else {
        let Resent { resent } = serde_json::from_str(&reply)?;
        output.line(&format!("sent again: {resent}"));
    }
    Ok(Exit::Success)
}

async fn list_webhooks(endpoint: &Endpoint, as_json: bool, output: &mut Output) -> CommandResult {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Webhooks {
        webhooks: Vec<Box<RawValue>>,
        has_more: bool,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Webhook {
        given_up_at: String,
        id: String,
        receiver: String,
        reason: String,
    }
    let mut pages = Pages::new(endpoint, "webhooks");
    loop {
        let page: Webhooks = pages.next(output).await?;
        for text in &page.webhooks {
            if as_json {
                output.line(text.get());
                continue;
            }
            let Webhook { given_up_at, id, receiver, reason } = serde_json::from_str(text.get())?;
            output.line(&printable(&format!("{given_up_at}  {id}  {receiver}  {reason}")));
        }
        pages.take(page.webhooks.len());
        if !page.has_more || output.is_closed() {
            return Ok(Exit::Success);
        }
    }
}
