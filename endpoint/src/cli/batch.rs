//! `batch`: many inputs at once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use runpod_log_line::printable;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::args::{BatchArgs, BatchCommand, BatchIdArgs, BatchSubmitArgs, EndpointArgs};
use super::ask::ask;
use super::exit::Exit;
use super::http::{ClientError, Endpoint};
use super::outcome::{CommandError, CommandResult};
use super::output::Output;
use super::pages::Pages;
use super::request::{RequestError, as_request, check, unreadable, without_mark};
use super::signals::StopRequests;
use crate::api::limits;

/// Bytes of requests that are sent at once: less than an endpoint takes (10 MiB).
const CHUNK: usize = 8 << 20;

/// Bytes of a request that an endpoint takes, alone in a body.
const MAX_REQUEST: usize = limits::BATCH_BODY - r#"{"requests":[]}"#.len();

/// Between two looks at a batch.
const PERIOD: Duration = Duration::from_secs(1);

/// The summary of a batch.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    id: String,
    status: String,
    name: Option<String>,
    request_total: u64,
    request_in_progress: u64,
    request_completed: u64,
    request_failed: u64,
    /// RunPod shows none.
    #[serde(default)]
    request_cancelled: u64,
}

impl Batch {
    fn is_over(&self) -> bool {
        let ended = self.request_completed + self.request_failed + self.request_cancelled;
        self.status == "CANCELLED"
            || self.status == "FAILED"
            || (self.status == "FINALIZED" && ended >= self.request_total)
    }

    fn exit(&self) -> Exit {
        match &*self.status {
            "CANCELLED" => Exit::Cancelled,
            "FINALIZED" if self.request_failed + self.request_cancelled == 0 => Exit::Success,
            _ => Exit::Failure,
        }
    }

    fn line(&self) -> String {
        let Self { id, status, request_total, request_in_progress, request_completed, request_failed, .. } = self;
        let name = self.name.as_ref().map(|name| format!("  {name}")).unwrap_or_default();
        let ended = request_completed + request_failed + self.request_cancelled;
        let cancelled = match self.request_cancelled {
            0 => String::new(),
            count => format!(", {count} cancelled"),
        };
        let line = format!(
            "{id}  {status}  {ended}/{request_total} ended, {request_in_progress} in progress, {request_failed} failed{cancelled}{name}"
        );
        printable(&line).into_owned()
    }
}

pub(crate) async fn batch(args: &BatchArgs, output: &mut Output) -> CommandResult {
    match &args.command {
        BatchCommand::Submit(args) => submit(args, output).await,
        BatchCommand::List(args) => list(args, output).await,
        BatchCommand::Status(args) => summary(args, false, output).await,
        BatchCommand::Cancel(args) => summary(args, true, output).await,
        BatchCommand::Results(args) => {
            let endpoint = Endpoint::new(&args.target.server)?;
            print_results(&endpoint, &args.batch, output).await.map_err(|error| to_go_on(error, &args.batch))?;
            Ok(Exit::Success)
        }
    }
}

fn batch_path(batch: &str, rest: &str) -> Result<String, ClientError> {
    Ok(format!("{}{rest}", Endpoint::job_path("batch", batch)?))
}

async fn submit(args: &BatchSubmitArgs, output: &mut Output) -> CommandResult {
    let requests = read(&args.file)?;
    let endpoint = Endpoint::new(&args.target.server)?;
    // Once there is a batch, Ctrl-C must not leave half of one behind.
    let stops = StopRequests::watch().and_then(StopRequests::or_hangup);
    let mut stops = stops.map_err(CommandError::Signals)?;
    let Some(created) = stops.or_stop(endpoint.post("batch", "[]".to_owned())).await else {
        output.note("stopped; if an empty draft is left, `runpod-endpoint batch list` shows it");
        return Ok(Exit::Cancelled);
    };
    let created: NewBatch = serde_json::from_str(&created?)?;
    let filled = stops.or_stop(fill(&endpoint, &created.id, args.name.as_deref(), &requests, output)).await;
    let batch = match filled {
        Some(Ok(batch)) => batch,
        // A draft that nobody finishes would stay for days.
        Some(Err(error)) => {
            output.note(&abandon(&endpoint, &created.id, &mut stops).await);
            return Err(error);
        }
        None => {
            output.note(&format!("stopped; {}", abandon(&endpoint, &created.id, &mut stops).await));
            return Ok(Exit::Cancelled);
        }
    };
    if args.detach {
        output.line(&printable(&batch.id));
        return Ok(Exit::Success);
    }
    output.note(&printable(&batch.id));
    let id = batch.id.clone();
    let Some(batch) = stops.or_stop(follow(&endpoint, batch, output)).await else {
        let (results, cancel) = (command("results", &id), command("cancel", &id));
        output.note(&format!("stopped; the batch goes on: `{results}` prints its results, `{cancel}` ends it"));
        return Ok(Exit::Failure);
    };
    let batch = batch.map_err(|error| to_go_on(error, &id))?;
    // Results are printed to their end or until somebody stops it again.
    match stops.or_stop(print_results(&endpoint, &id, output)).await {
        Some(printed) => printed.map(|()| batch.exit()).map_err(|error| to_go_on(error, &id)),
        None => {
            output.note(&format!("stopped; `{}` prints all results", command("results", &id)));
            Ok(Exit::Failure)
        }
    }
}

/// The error, with the command that prints the results later if the endpoint could not be asked for them.
fn to_go_on(error: CommandError, batch: &str) -> CommandError {
    match error {
        CommandError::Client(error) if error.is_temporary() => {
            CommandError::Results { error, command: command("results", batch) }
        }
        other => other,
    }
}

async fn cancel(endpoint: &Endpoint, batch: &str) -> Result<(), ClientError> {
    endpoint.post(&batch_path(batch, "/cancel")?, String::new()).await.map(|_| ())
}

/// Cancels a batch that was not sent to its end, and says what became of it. Another request to stop ends the attempt.
async fn abandon(endpoint: &Endpoint, batch: &str, stops: &mut StopRequests) -> String {
    let reason = match stops.or_stop(cancel(endpoint, batch)).await {
        Some(Ok(())) => return "the batch is cancelled".to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "stopped before the endpoint has answered".to_owned(),
    };
    format!("the batch {} is not cancelled: {reason}; `{}` does that", printable(batch), command("cancel", batch))
}

/// The command line that does something else with a batch.
fn command(name: &str, batch: &str) -> String {
    printable(&format!("runpod-endpoint batch {name} {batch}")).into_owned()
}

#[derive(Deserialize)]
struct NewBatch {
    id: String,
}

/// Adds the requests to the draft and finalizes it.
async fn fill(
    endpoint: &Endpoint,
    id: &str,
    name: Option<&str>,
    all: &[Line],
    output: &mut Output,
) -> Result<Batch, CommandError> {
    let path = batch_path(id, "/requests")?;
    let mut rest = all;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |line: &Line| {
            bytes += line.request.len() + 1;
            bytes <= CHUNK
        };
        // One that is larger than a chunk is sent alone.
        let count = rest.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let (chunk, later) = rest.split_at(count);
        let requests: Vec<_> = chunk.iter().map(|line| &*line.request).collect();
        let added = endpoint.post(&path, format!("{{\"requests\":[{}]}}", requests.join(","))).await;
        added.map_err(|error| with_line(error, chunk))?;
        rest = later;
        output.note(&format!("{}/{} sent", all.len() - rest.len(), all.len()));
    }
    if let Some(name) = name {
        endpoint.put(&batch_path(id, "")?, json!({ "name": name }).to_string()).await?;
    }
    endpoint.post(&batch_path(id, "/finalize")?, String::new()).await?;
    Ok(serde_json::from_str(&ask(endpoint, &batch_path(id, "")?, output).await?)?)
}

/// Prints each change to standard error until the batch is over.
async fn follow(endpoint: &Endpoint, mut batch: Batch, output: &mut Output) -> Result<Batch, CommandError> {
    let path = batch_path(&batch.id, "")?;
    output.note(&batch.line());
    while !batch.is_over() {
        sleep(PERIOD).await;
        let next = serde_json::from_str(&ask(endpoint, &path, output).await?)?;
        if batch != next {
            batch = next;
            output.note(&batch.line());
        }
    }
    Ok(batch)
}

async fn print_results(endpoint: &Endpoint, batch: &str, output: &mut Output) -> Result<(), CommandError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Requests {
        requests: Vec<Box<RawValue>>,
        has_more: bool,
    }
    let list = batch_path(batch, "/requests")?;
    let mut pages = Pages::new(endpoint, &list);
    loop {
        let found: Requests = pages.next(output).await?;
        found.requests.iter().for_each(|request| output.line(request.get()));
        pages.take(found.requests.len());
        if !found.has_more || found.requests.is_empty() || output.is_closed() {
            return Ok(());
        }
    }
}

async fn list(args: &EndpointArgs, output: &mut Output) -> CommandResult {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Batches {
        batches: Vec<Box<RawValue>>,
        #[serde(default)]
        has_more: bool,
    }
    let endpoint = Endpoint::new(&args.target.server)?;
    let mut pages = Pages::new(&endpoint, "batch");
    loop {
        let found: Batches = pages.next(output).await?;
        for text in &found.batches {
            print_summary(text.get(), args.target.json, output)?;
        }
        pages.take(found.batches.len());
        if !found.has_more || found.batches.is_empty() || output.is_closed() {
            return Ok(Exit::Success);
        }
    }
}

async fn summary(args: &BatchIdArgs, and_cancel: bool, output: &mut Output) -> CommandResult {
    let endpoint = Endpoint::new(&args.target.server)?;
    if and_cancel {
        cancel(&endpoint, &args.batch).await?;
    }
    print_summary(&endpoint.get(&batch_path(&args.batch, "")?).await?, args.target.json, output)?;
    Ok(Exit::Success)
}

fn print_summary(text: &str, as_json: bool, output: &mut Output) -> Result<(), CommandError> {
    if as_json {
        output.line(text.trim_end());
    } else {
        output.line(&serde_json::from_str::<Batch>(text)?.line());
    }
    Ok(())
}

/// A line of the file that has a request.
struct Line {
    /// Counted from 1.
    number: usize,
    request: String,
}

/// The error, with the line of the file in place of the request's place among those that were sent with it.
fn with_line(error: ClientError, sent: &[Line]) -> ClientError {
    let in_file = |text: &str| {
        let (place, reason) = text.strip_prefix("request ")?.split_once(": ")?;
        let line = sent.get(place.parse::<usize>().ok()?)?;
        Some(format!("line {}: {reason}", line.number))
    };
    match error {
        ClientError::Refused { status, text } => ClientError::Refused { status, text: in_file(&text).unwrap_or(text) },
        other => other,
    }
}

/// The lines with a request.
fn read(file: &Path) -> Result<Vec<Line>, RequestError> {
    let lines: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(std::fs::File::open(file).map_err(|error| unreadable(file, error))?))
    };
    let mut requests = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let line = line.map_err(|error| unreadable(file, error))?;
        if !without_mark(&line).trim().is_empty() {
            let request = as_request(&line).map_err(|error| RequestError::Line(number + 1, error))?;
            check(&request).map_err(|error| RequestError::LineField(number + 1, error))?;
            let request = serde_json::to_string(&request).map_err(|error| RequestError::Line(number + 1, error))?;
            if request.len() > MAX_REQUEST {
                return Err(RequestError::LongLine(number + 1));
            }
            requests.push(Line { number: number + 1, request });
        }
    }
    if requests.is_empty() { Err(RequestError::NoLines(file.display().to_string())) } else { Ok(requests) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_could_not_be_asked_for_have_the_command_that_prints_them() {
        let said = |status| {
            let error = ClientError::Refused { status, text: "no".to_owned() };
            to_go_on(CommandError::Client(error), "b-1").to_string()
        };
        assert!(said(503).contains("`runpod-endpoint batch results b-1`"), "{}", said(503));
        assert_eq!(said(404), "the endpoint answered 404: no");
    }
}
