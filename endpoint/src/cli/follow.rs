//! Follows one job until it ends, line by line.

use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::ask::{FIRST_PAUSE, LONGEST_PAUSE, ask};
use super::exit::Exit;
use super::http::{Chunks, Endpoint, Job};
use super::outcome::Outcome;
use super::output::Output;
use super::print::{plain, print_end};
use crate::store::Status;

/// How long one question about stream items is held, in milliseconds; the least that the API takes.
const STREAM_WAIT_MS: u32 = 1000;

/// Width of the names of states, so that what follows them is aligned.
const NAME_WIDTH: usize = 11;

/// What is told of a job besides its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Changes of state and progress updates.
    pub(super) changes: bool,
    /// Stream items, which are taken from the stream.
    pub(super) items: bool,
    pub(super) as_json: bool,
}

/// Something to tell of a job.
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
    wanted: Wanted,
}

impl Reporter {
    fn tell(&self, news: News<'_>, output: &mut Output) {
        let is_wanted = if matches!(news, News::Item(_)) { self.wanted.items } else { self.wanted.changes };
        if is_wanted {
            let timestamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let line = if self.wanted.as_json { self.json(news, timestamp) } else { self.text(news, &timestamp) };
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
        // Strings, numbers and JSON that was parsed before: there is nothing that could fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// Asks until the job has ended, tells what is wanted and prints the end. `known` is the state that the job was last
/// known to be in.
pub(super) async fn follow(
    endpoint: &Endpoint,
    id: &str,
    known: Option<Status>,
    wanted: Wanted,
    output: &mut Output,
) -> Outcome {
    let reporter = Reporter { started: Instant::now(), wanted };
    let mut seen = known;
    if let Some(status) = known {
        reporter.tell(News::Status(status), output);
    }
    let mut progress: Option<Box<RawValue>> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let reply = ask(endpoint, &format!("status/{id}"), output).await?;
        let job: Job = serde_json::from_str(&reply)?;
        if seen == Some(Status::InQueue) && job.status.is_terminal() && job.execution_time.is_some() {
            // It was quicker than the questions, but a job with an execution time has been in progress.
            reporter.tell(News::Status(Status::InProgress), output);
        }
        if job.status.is_terminal() && wanted.items {
            take_items(endpoint, id, &reporter, output).await;
        }
        if seen.replace(job.status) != Some(job.status) {
            reporter.tell(News::Status(job.status), output);
        }
        if job.status.is_terminal() {
            return Ok(print_end(&job, &reply, wanted.as_json, output));
        }
        if let Some(update) = job.output.filter(|update| Some(update.get()) != progress.as_ref().map(|old| old.get())) {
            reporter.tell(News::Progress(&update), output);
            progress = Some(update);
        }
        if output.is_closed() {
            return Ok(Exit::Failure);
        }
        if wanted.items && job.status == Status::InProgress {
            pause = if take_items(endpoint, id, &reporter, output).await { Duration::ZERO } else { FIRST_PAUSE };
        }
        sleep(pause).await;
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}

/// Prints the items that have come since the last question; tells whether there were any. An endpoint that refuses the
/// question says so when it is asked for the job.
async fn take_items(endpoint: &Endpoint, id: &str, reporter: &Reporter, output: &mut Output) -> bool {
    let reply = endpoint.get(&format!("stream/{id}?wait={STREAM_WAIT_MS}")).await;
    let chunks: Option<Chunks> = reply.ok().and_then(|reply| serde_json::from_str(&reply).ok());
    let items = chunks.map(|chunks| chunks.stream).unwrap_or_default();
    for item in &items {
        reporter.tell(News::Item(&item.output), output);
    }
    !items.is_empty()
}
