//! `runpod-worker test`: one job through the whole worker, with a queue that lives in this process.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{complain, configure, print, start_log};
use crate::app::{self, Control, StartError};
use crate::checks;
use crate::cli::TestArgs;
use crate::config::{Config, EXIT_CONFIG};
use crate::queue::{JobSource, PostReply, ResultBody, ResultSink, StopReply, TakeReply, wire};
use runpod_handler_protocol::CheckReport;
use runpod_worker_core::{DrainCause, Event, JobId, TakenJob, WorkerState};

/// The file with the job when none is named, as in RunPod's own worker.
pub(super) const DEFAULT_FILE: &str = "test_input.json";
const DEFAULT_ID: &str = "local_test";
const COMPLETED: &str = "COMPLETED";

/// Why the job could not be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The file cannot be read.
    #[error(
        "cannot read the job from {path}: {error}; write {{\"input\": …}} into it, or use --test-input '{{\"input\": …}}'"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The text is not a job.
    #[error("the job is not valid: {0}; it must be a JSON object like {{\"input\": {{\"text\": \"hello\"}}}}")]
    Invalid(String),
    /// The worker cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The handler cannot be started.
    #[error("{0}")]
    Handler(String),
}

/// The command: one job, its result as JSON on stdout, timing on stderr.
pub(super) async fn test_command(args: TestArgs) -> ExitCode {
    let (config, job) = match (configure(&args.run), read_job(args.input, args.test_input)) {
        (Ok(config), Ok(job)) => (config, job),
        (Err(code), Ok(_)) => return code,
        (_, Err(error)) => return complain(EXIT_CONFIG, &error.to_string()),
    };
    let log = match start_log(&config, None, std::io::stderr()) {
        Ok(guard) => guard,
        Err(code) => return code,
    };
    note_checks(&config).await;
    let result = test(config, job, Checks::First).await;
    // The log first, then the result.
    drop(log);
    report_test(result)
}

/// Says which checks of the machine a worker in production would not pass. They are about other machines than that of an author,
/// so the job runs all the same.
async fn note_checks(config: &Config) {
    for report in checks::run(&config.checks).await.iter().filter(|report| report.is_failure()) {
        let CheckReport { name, detail, fix, .. } = report;
        tracing::warn!(check = name, detail, fix, "A fitness check fails here. In production no job would be taken.");
    }
}

/// Prints the result of the job.
pub(super) fn report_test(result: Result<TestReport, TestError>) -> ExitCode {
    let report = match result {
        Ok(report) => report,
        Err(error) => return complain(1, &error.to_string()),
    };
    let text = match serde_json::to_string_pretty(&report) {
        Ok(text) => text,
        Err(error) => return complain(1, &error.to_string()),
    };
    let peak = report.peak_kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{} MiB", kib / 1024));
    let _ = writeln!(
        std::io::stderr(),
        "{} in {:?} (load {:?}, peak memory {peak})",
        report.status,
        report.run_time,
        report.load_time
    );
    let printed = print(&text);
    if report.status == COMPLETED { printed } else { ExitCode::FAILURE }
}

/// Reads the job named on the command line.
pub(super) fn read_job(input: Option<PathBuf>, test_input: Option<String>) -> Result<TakenJob, TestError> {
    let text = match (test_input, input) {
        (Some(text), _) => text,
        (None, Some(path)) if path.as_os_str() == "-" => {
            std::io::read_to_string(std::io::stdin()).map_err(|error| TestError::Read { path, error })?
        }
        (None, path) => {
            let path = path.unwrap_or_else(|| DEFAULT_FILE.into());
            std::fs::read_to_string(&path).map_err(|error| TestError::Read { path, error })?
        }
    };
    let mut job: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| TestError::Invalid(error.to_string()))?;
    if job.get("input").is_none_or(serde_json::Value::is_null) {
        return Err(TestError::Invalid("`input` is missing".to_owned()));
    }
    let id = match job.get("id").and_then(serde_json::Value::as_str) {
        Some(id) => id.to_owned(),
        None => {
            job.insert("id".to_owned(), DEFAULT_ID.into());
            DEFAULT_ID.to_owned()
        }
    };
    let body = serde_json::to_vec(&job).map_err(|error| TestError::Invalid(error.to_string()))?;
    match wire::take_reply(&body.into(), 1) {
        TakeReply::Jobs(mut jobs) if !jobs.is_empty() => Ok(jobs.remove(0)),
        _ => Err(TestError::Invalid(format!("`{id}` cannot be the id of a job"))),
    }
}

/// The result of the job, printed as JSON.
#[derive(Debug, Default, Serialize)]
pub struct TestReport {
    /// Job id.
    pub id: String,
    /// `COMPLETED` or `FAILED`.
    pub status: &'static str,
    /// The body that would have been posted, with `output` or `error`.
    #[serde(flatten)]
    pub result: serde_json::Map<String, serde_json::Value>,
    /// Streamed items, if there were any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stream: Vec<Box<RawValue>>,
    /// Time from the start of the program until a job could be taken.
    #[serde(skip)]
    pub load_time: Duration,
    /// Time from handing out the job to its result.
    #[serde(skip)]
    pub run_time: Duration,
    /// Largest resident size of the handler process in kibibytes.
    #[serde(skip)]
    pub peak_kib: Option<u64>,
}

/// What is checked before the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checks {
    /// Device and handler, as in production.
    First,
    /// Nothing, as in a local run of RunPod's own worker.
    Skip,
}

/// Runs one job through a worker and returns its result. A job that fails is a result, not an error.
pub(super) async fn test(mut config: Config, job: TakenJob, checks: Checks) -> Result<TestReport, TestError> {
    config.http_bind = None;
    config.queue = None;
    config.heartbeat = None;
    if checks == Checks::Skip {
        config.policy.checks = None;
    }
    // What fails once, on a machine without load, fails again.
    config.policy.start_attempts = 1;
    // Alerts are for production.
    config.alerts.webhook = None;
    config.alerts.rules.clear();
    config.spool.folder = None;
    config.policy.processes = 1;
    let started = Instant::now();
    let (sender, mut messages) = mpsc::channel(64);
    let id = job.id.as_str().to_owned();
    let queue = Arc::new(OneJob { job: Mutex::new(Some(job)), sender });
    let (send_control, control) = oneshot::channel();
    let worker = tokio::spawn(app::run(config, queue, Vec::new(), send_control));
    let Ok(control) = control.await else {
        let code = worker.await.map_err(|error| TestError::Handler(error.to_string()))??;
        return Err(TestError::Handler(format!("the worker ended with exit status {code}")));
    };

    let mut report = TestReport { id, status: "FAILED", ..TestReport::default() };
    let mut taken_at = started;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            reason = unhealthy(&control) => return Err(TestError::Handler(reason)),
        };
        match message {
            Some(QueueMessage::Taken) => {
                taken_at = Instant::now();
                report.load_time = started.elapsed();
            }
            Some(QueueMessage::Chunk(body)) => report.stream.extend(item(&body)),
            Some(QueueMessage::Final(body)) => {
                report.run_time = taken_at.elapsed();
                report.peak_kib = peak_memory(&control);
                report.result = serde_json::from_slice(&body).unwrap_or_default();
                if !report.result.contains_key("error") {
                    report.status = COMPLETED;
                }
                break;
            }
            None => return Err(TestError::Handler("the worker ended without a result".to_owned())),
        }
    }
    let _ = control.events.send(Event::Drain(DrainCause::Signal)).await;
    let _ = worker.await;
    Ok(report)
}

/// Waits until the worker is unhealthy; returns the reason.
async fn unhealthy(control: &Control) -> String {
    let mut snapshots = control.snapshots.clone();
    let bad = snapshots.wait_for(|snapshot| snapshot.state == WorkerState::Unhealthy).await;
    match bad {
        Ok(snapshot) => snapshot.reason.clone().unwrap_or_else(|| "the handler cannot be started".to_owned()),
        Err(_) => std::future::pending().await,
    }
}

/// Largest resident size of the handler process so far, in kibibytes.
fn peak_memory(control: &Control) -> Option<u64> {
    let pid = control.snapshots.borrow().processes.first()?.pid?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn item(body: &[u8]) -> Option<Box<RawValue>> {
    #[derive(serde::Deserialize)]
    struct Chunk {
        output: Box<RawValue>,
    }
    serde_json::from_slice::<Chunk>(body).ok().map(|chunk| chunk.output)
}

/// What the worker did at the queue.
#[derive(Debug)]
enum QueueMessage {
    Taken,
    Chunk(Bytes),
    Final(Bytes),
}

/// A queue with one job in it.
#[derive(Debug)]
struct OneJob {
    job: Mutex<Option<TakenJob>>,
    sender: mpsc::Sender<QueueMessage>,
}

impl OneJob {
    async fn accept(&self, message: QueueMessage) -> PostReply {
        let _ = self.sender.send(message).await;
        PostReply::Status { code: 200, retry_after: None }
    }
}

impl JobSource for OneJob {
    async fn take(&self, _want: usize, _holding: bool) -> TakeReply {
        let job = self.job.lock().take();
        match job {
            Some(job) => {
                let _ = self.sender.send(QueueMessage::Taken).await;
                TakeReply::Jobs(vec![job])
            }
            None => std::future::pending().await,
        }
    }

    async fn stops(&self) -> StopReply {
        std::future::pending().await
    }
}

impl ResultSink for OneJob {
    async fn post_final(&self, _job: &JobId, body: ResultBody, _streamed: bool) -> PostReply {
        self.accept(QueueMessage::Final(body.whole())).await
    }

    async fn post_chunk(&self, _job: &JobId, body: Bytes) -> PostReply {
        self.accept(QueueMessage::Chunk(body)).await
    }

    async fn post_progress(&self, _job: &JobId, _body: Bytes) -> PostReply {
        PostReply::Status { code: 200, retry_after: None }
    }
}
