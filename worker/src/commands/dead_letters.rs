//! `runpod-worker dead-letters`: results that the queue refused for good.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use runpod_log_line::printable;

use super::{complain, print};
use crate::cli::{DeadLetterAction, DeadLetterArgs};
use crate::config::{DeadLetterConfig, EXIT_CONFIG, ProcessEnvironment};
use crate::outbox::{DeadLetter, DeadLetterError, DeadLetters};
use crate::queue::HttpQueue;

/// Runs one action.
pub(super) async fn dead_letters_command(args: DeadLetterArgs) -> ExitCode {
    let config = match DeadLetterConfig::load(args.spool_dir.as_deref(), args.worker_id.as_deref(), &ProcessEnvironment)
    {
        Ok(config) => config,
        Err(errors) => return complain(EXIT_CONFIG, &errors.to_string()),
    };
    let dead = match DeadLetters::new(&config.spool) {
        Ok(dead) => dead,
        Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    match args.action {
        DeadLetterAction::List => list(&dead),
        DeadLetterAction::Show { name } => show(&dead, &name),
        DeadLetterAction::Discard { names, all } => {
            each(&dead, &names, all, async |letter| dead.discard(letter.id)).await
        }
        DeadLetterAction::Resend { names, all } => {
            let Some(queue) = &config.queue else {
                let what = "RUNPOD_WEBHOOK_GET_JOB and RUNPOD_WEBHOOK_POST_OUTPUT are not set, so there is no queue to \
                            send to: run this where the worker runs";
                return complain(EXIT_CONFIG, what);
            };
            let queue = match HttpQueue::new(queue) {
                Ok(queue) => queue,
                Err(error) => return complain(EXIT_CONFIG, &error.to_string()),
            };
            each(&dead, &names, all, async |letter| dead.resend(letter, &queue).await).await
        }
    }
}

fn list(dead: &DeadLetters) -> ExitCode {
    let ids = match dead.ids() {
        Ok(ids) => ids,
        Err(error) => return complain(1, &error.to_string()),
    };
    let mut text = format!("{:>6}  {:<20}  {:>6}  {:>11}  {:<40}  REASON", "ID", "TIME", "STATUS", "BYTES", "JOB");
    for id in ids {
        text.push('\n');
        text.push_str(&match dead.get(id) {
            Ok(letter) => line(&letter),
            Err(error) => format!("{id:>6}  {error}"),
        });
    }
    print(&text)
}

fn line(letter: &DeadLetter) -> String {
    let (status, reason) = status_and_reason(letter);
    let DeadLetter { id, record, .. } = letter;
    let (time, bytes, job) = (time(record.time_ms), record.body.len(), printable(record.job.as_str()));
    let reason = printable(reason);
    format!("{id:>6}  {time:<20}  {status:>6}  {bytes:>11}  {job:<40}  {reason}")
}

fn status_and_reason(letter: &DeadLetter) -> (String, &str) {
    match &letter.reason {
        Some(reason) => (reason.status.map_or_else(|| "-".to_owned(), |status| status.to_string()), &reason.reason),
        None => ("-".to_owned(), "unknown: the disk was full"),
    }
}

/// Prints the body that would be posted on stdout, and the rest of the record on stderr.
fn show(dead: &DeadLetters, name: &str) -> ExitCode {
    let letter = match dead.find(name) {
        Ok(letter) => letter,
        Err(error) => return complain(1, &error.to_string()),
    };
    let (status, reason) = status_and_reason(&letter);
    let (id, job) = (letter.id, printable(letter.record.job.as_str()));
    let reason = printable(reason);
    let finished = time(letter.record.time_ms);
    let _ = writeln!(io::stderr(), "id: {id}\njob: {job}\nfinished: {finished}\nstatus: {status}\nreason: {reason}");
    print(&String::from_utf8_lossy(&letter.record.body.whole()))
}

/// Applies `act` to the named dead letters, or to all. Goes on after a failure.
async fn each(
    dead: &DeadLetters,
    names: &[String],
    all: bool,
    act: impl AsyncFn(&DeadLetter) -> Result<(), DeadLetterError>,
) -> ExitCode {
    let names = match dead.ids() {
        Ok(ids) if all => ids.iter().map(u64::to_string).collect(),
        Ok(_) => names.to_vec(),
        Err(error) => return complain(1, &error.to_string()),
    };
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let done = match dead.find(&name) {
            Ok(letter) => act(&letter).await.map(|()| letter),
            Err(error) => Err(error),
        };
        match done {
            Ok(letter) => {
                print(&format!("{} {}: done", letter.id, printable(letter.record.job.as_str())));
            }
            Err(error) => code = complain(1, &format!("{name}: {error}")),
        }
    }
    code
}

fn time(millis: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}
