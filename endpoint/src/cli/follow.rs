//! Follows one job until it ends, line by line.

use std::time::{Duration, Instant, SystemTime};

use runpod_log_line::printable;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::ask::{FIRST_PAUSE, LONGEST_PAUSE, ask};
use super::exit::Exit;
use super::http::{Endpoint, Job, Stream};
use super::outcome::CommandResult;
use super::output::Output;
use super::print::{plain, print_end};
use crate::store::Status;

/// How long a request for stream items is held, in milliseconds: the API's minimum.
const STREAM_WAIT_MS: u32 = 1000;

/// Width of the column of states.
const NAME_WIDTH: usize = 11;

/// What is printed about a job besides its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    /// Changes of state and progress updates.
    pub(super) changes: bool,
    /// Stream items, which are taken from the stream.
    pub(super) items: bool,
    pub(super) as_json: bool,
}

/// Something that happened to a job.
#[derive(Debug, Clone, Copy)]
enum News<'a> {
    Status(Status),
    Progress(&'a RawValue),
    Item(&'a RawValue),
}

/// One line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    elapsed_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a RawValue>,
    timestamp: String,
}

struct Reporter {
    started: Instant,
    shown: Shown,
}

impl Reporter {
    fn report(&self, news: News<'_>, output: &mut Output) {
        let is_shown = if matches!(news, News::Item(_)) { self.shown.items } else { self.shown.changes };
        if is_shown {
            let timestamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let line = if self.shown.as_json { self.json(news, timestamp) } else { self.text(news, &timestamp) };
            output.line(&line);
        }
    }

    fn text(&self, news: News<'_>, timestamp: &str) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        let (name, text) = match news {
            News::Status(status) => (status.name(), String::new()),
            News::Progress(value) => ("progress", plain(value)),
            News::Item(value) => ("item", plain(value)),
        };
        let text = printable(&text);
        format!("{timestamp}  +{elapsed:.1}s  {name:<NAME_WIDTH$}  {text}").trim_end().to_owned()
    }

    fn json(&self, news: News<'_>, timestamp: String) -> String {
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut line = Line { elapsed_ms, status: None, progress: None, item: None, timestamp };
        match news {
            News::Status(status) => line.status = Some(status),
            News::Progress(value) => line.progress = Some(value),
            News::Item(value) => line.item = Some(value),
        }
        // Strings, numbers and JSON that was parsed before: nothing in it can fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// Polls the job until it ends, prints what `shown` selects and then the result. `known` is the last known state of the job.
pub(super) async fn follow(
    endpoint: &Endpoint,
    id: &str,
    known: Option<Status>,
    shown: Shown,
    output: &mut Output,
) -> CommandResult {
    let reporter = Reporter { started: Instant::now(), shown };
    let mut seen = known;
    if let Some(status) = known {
        reporter.report(News::Status(status), output);
    }
    let mut progress: Option<Box<RawValue>> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let reply = ask(endpoint, &Endpoint::job_path("status", id)?, output).await?;
        let job: Job = serde_json::from_str(&reply)?;
        if seen == Some(Status::InQueue) && job.status.is_terminal() && job.execution_time.is_some() {
            // The job ran between two polls: one with an execution time has been in progress.
            reporter.report(News::Status(Status::InProgress), output);
        }
        if job.status.is_terminal() && shown.items {
            take_items(endpoint, id, &reporter, output).await;
        }
        if seen.replace(job.status) != Some(job.status) {
            reporter.report(News::Status(job.status), output);
        }
        if job.status.is_terminal() {
            return Ok(print_end(&job, &reply, shown.as_json, output));
        }
        if let Some(update) = job.output.filter(|update| Some(update.get()) != progress.as_ref().map(|old| old.get())) {
            reporter.report(News::Progress(&update), output);
            progress = Some(update);
        }
        if output.is_closed() {
            return Ok(Exit::Failure);
        }
        if shown.items && job.status == Status::InProgress {
            pause = if take_items(endpoint, id, &reporter, output).await { Duration::ZERO } else { FIRST_PAUSE };
        }
        sleep(pause).await;
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}

/// Prints the items that were streamed since the last request; returns whether there were any. Errors are ignored here: the next
/// status request reports them.
async fn take_items(endpoint: &Endpoint, id: &str, reporter: &Reporter, output: &mut Output) -> bool {
    let Ok(path) = Endpoint::job_path("stream", id) else { return false };
    let reply = endpoint.get(&format!("{path}?wait={STREAM_WAIT_MS}")).await;
    let stream: Option<Stream> = reply.ok().and_then(|reply| serde_json::from_str(&reply).ok());
    let items = stream.map(|stream| stream.stream).unwrap_or_default();
    for item in &items {
        reporter.report(News::Item(&item.output), output);
    }
    !items.is_empty()
}
