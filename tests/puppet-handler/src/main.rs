//! A test handler that misbehaves on request.
//!
//! The field `do` of a job's input chooses what the job does (see [`Do`]). The environment variable `PUPPET_START` chooses how
//! the process starts (see [`start`]). With `PUPPET_BATCH=1` it runs jobs in batches (see
//! [`batch`]), with `PUPPET_STEP=1` step by step (see [`step`]), with
//! `PUPPET_ASYNC=1` as futures (see [`concurrent`]). Faults that a handler cannot have with the SDK are made with raw
//! frames (see [`raw`]).

mod batch;
mod concurrent;
mod raw;
mod start;
mod step;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use runpod_handler_sdk::files::{FileInput, Upload};
use runpod_handler_sdk::{
    Check, ErrorKind, Handler, HandlerError, Job, LoadEnv, Secret, serve, serve_async, serve_batch, serve_step,
};
use rustix::process::{Signal, getpid, kill_process};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// Extension of the file that says that a job waits for the file without it.
const WAITS: &str = "waits";
/// Message of CUDA when a context is lost.
const LOST: &str = "CUDA error: an illegal memory access was encountered";

/// What a job does.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Do {
    /// Returns at once.
    Ok,
    /// Sleeps without a stop point, then returns.
    SleepMs { ms: u64 },
    /// Sleeps without a stop point, and adds a line to a file before and after it: what, job, worker, and the time.
    Diary { file: PathBuf, ms: u64 },
    /// Waits until a file exists at this path, then returns.
    WaitFor { path: PathBuf },
    /// Computes for ever, and ignores a cancel.
    Spin,
    /// Waits for ever, and ignores a cancel.
    IgnoreCancel,
    /// Waits until it is cancelled, then ends at once.
    CheckCancel,
    /// Panics.
    Panic,
    /// Crashes with SIGSEGV.
    Segv,
    /// Crashes with SIGABRT.
    Abort,
    /// Writes a text to stderr and crashes with SIGABRT.
    LastWords { text: String },
    /// Exits.
    Exit { code: i32 },
    /// Returns an error.
    Error,
    /// Returns a validation error.
    Validation,
    /// Returns an error about an unknown model.
    UnknownModel,
    /// Returns libtorch's message for an exhausted device.
    OomText,
    /// Returns libtorch's message for a lost device, although the device works.
    CudaText,
    /// Panics with libtorch's message for a lost device.
    CudaPanic,
    /// Returns an error of the kind `device_lost`.
    DeviceLost,
    /// Streams the numbers from 1 to `n`.
    Stream { n: u64 },
    /// Streams the time of day in microseconds `n` times, `per_second` of them each second.
    Ticks { n: u64, per_second: u64 },
    /// Streams `n` texts of `bytes` bytes.
    StreamBytes { n: u64, bytes: usize },
    /// Reports progress `n` times.
    Progress { n: u64 },
    /// Returns a text of `bytes` bytes.
    BigOutput { bytes: usize },
    /// Stops the whole process, including the control thread.
    Freeze,
    /// Returns and asks for a fresh worker.
    Refresh,
    /// Records a value.
    Record { name: String, value: f64 },
    /// Prints `lines` lines of `bytes` bytes to stdout, and as many to stderr.
    Log { lines: u64, bytes: usize },
    /// Logs an event of each level with this text.
    Events { text: String },
    /// Returns its trace context.
    Trace,
    /// Prints and logs all secrets that it knows, then panics with them.
    Blab { token: Secret, url: String },
    /// Starts a process that outlives this one and keeps stdout and stderr open.
    Grandchild,
    /// Starts a process in a session of its own that outlives this one, and writes its id to `pid_file`.
    Escapee { pid_file: PathBuf },
    /// Writes the texts to stdout as they are, with a pause after each, then waits until there is a file at `until`, if given.
    Print { texts: Vec<String>, pause_ms: u64, until: Option<PathBuf> },
    /// Creates its temporary folder, writes the path to `path_file`, and waits for ever.
    TempDir { path_file: PathBuf },
    /// Fetches a file and returns its name, type and text.
    Fetch { file: FileInput },
    /// Uploads a text and returns its link.
    Upload { name: String, text: String },
    /// Allocates `bytes` of host memory and never frees it.
    Leak { bytes: usize },
}

struct Puppet {
    slot: u32,
    worker_id: String,
    leaked: Vec<Vec<u8>>,
}

impl Puppet {
    /// Adds a line to a file that other processes write too.
    fn note(&self, file: &Path, what: &str, job: &str) -> Result<(), HandlerError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let line = format!("{what} {job} {} {now}\n", self.worker_id);
        // At once, so that lines of several processes do not mix.
        File::options().create(true).append(true).open(file)?.write_all(line.as_bytes())?;
        Ok(())
    }
}

impl Handler for Puppet {
    type Input = Do;
    type Output = Value;
    type Chunk = Value;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn checks(_: &LoadEnv) -> Vec<Check> {
        vec![start::check()]
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        start::load(env)?;
        Ok(Self { slot: env.slot(), worker_id: env.worker_id().to_owned(), leaked: Vec::new() })
    }

    #[expect(clippy::panic, reason = "misbehaving is the purpose of this handler")]
    fn run(&mut self, input: Do, job: &Job<Value>) -> Result<Value, HandlerError> {
        match input {
            Do::Ok => {}
            Do::SleepMs { ms } => sleep(Duration::from_millis(ms)),
            Do::Diary { file, ms } => {
                self.note(&file, "begin", job.id())?;
                sleep(Duration::from_millis(ms));
                self.note(&file, "end", job.id())?;
            }
            Do::WaitFor { path } => {
                let _ = std::fs::write(path.with_extension(WAITS), "");
                // Thousands may wait at the same time.
                let mut pause = Duration::from_millis(10);
                while !path.exists() {
                    job.stop_point()?;
                    sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
            }
            Do::Spin => loop {
                std::hint::spin_loop();
            },
            Do::IgnoreCancel => loop {
                sleep(Duration::from_millis(10));
            },
            Do::CheckCancel => loop {
                job.stop_point()?;
                sleep(Duration::from_millis(1));
            },
            Do::Panic => panic!("the puppet panics as asked"),
            Do::Segv => die_of(Signal::SEGV),
            Do::Abort => std::process::abort(),
            Do::LastWords { text } => {
                writeln!(io::stderr(), "{text}")?;
                std::process::abort();
            }
            Do::Exit { code } => std::process::exit(code),
            Do::Error => return Err("the puppet fails as asked".into()),
            Do::Validation => return Err(HandlerError::validation("input.do: refused as asked")),
            Do::UnknownModel => return Err(HandlerError::model_not_found("there is no model called \"puppet-2\"")),
            Do::OomText => {
                return Err(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of \
                            which 1.06 GiB is free."
                        .into(),
                );
            }
            Do::CudaText => return Err(LOST.into()),
            Do::CudaPanic => panic!("{LOST}"),
            Do::DeviceLost => return Err(HandlerError::new(ErrorKind::DeviceLost, LOST)),
            Do::Stream { n } => {
                for item in 1..=n {
                    job.emit(json!(item))?;
                }
            }
            Do::Ticks { n, per_second } => {
                let begun = Instant::now();
                for item in 0..n {
                    sleep(Duration::from_micros(item * 1_000_000 / per_second.max(1)).saturating_sub(begun.elapsed()));
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    job.emit(json!(now.as_micros() as u64))?;
                }
            }
            Do::StreamBytes { n, bytes } => {
                for _ in 0..n {
                    job.emit(json!("x".repeat(bytes)))?;
                }
            }
            Do::Progress { n } => (1..=n).for_each(|step| job.progress(json!({"step": step}))),
            Do::BigOutput { bytes } => return Ok(json!("x".repeat(bytes))),
            Do::Freeze => {
                kill_process(getpid(), Signal::STOP)?;
                // The signal stops the threads one after another. Meanwhile this one must not answer.
                sleep(Duration::from_secs(1));
            }
            Do::Refresh => job.request_refresh(),
            Do::Record { name, value } => job.record(&name, value),
            Do::Log { lines, bytes } => {
                for line in 1..=lines {
                    let text = "x".repeat(bytes);
                    writeln!(io::stdout(), "stdout {line} {text}")?;
                    writeln!(io::stderr(), "stderr {line} {text}")?;
                }
            }
            Do::Events { text } => {
                tracing::error!(number = 1, "error {text}");
                tracing::warn!("warn {text}");
                tracing::info!("info {text}");
                tracing::debug!("debug {text}");
            }
            Do::Trace => return Ok(json!({"traceparent": job.traceparent()})),
            Do::Blab { token, url } => {
                let bucket: Value = job.field("s3Config")?.unwrap_or_default();
                let names = ["PUPPET_API_KEY", "OTEL_EXPORTER_OTLP_HEADERS", "RUNPOD_WORKER_ALERT_WEBHOOK"];
                let variables = names.map(|name| std::env::var(name).unwrap_or_default()).join(" ");
                let all =
                    format!("{} {url} {bucket} {variables} authorization: Bearer {}", token.expose(), token.expose());
                writeln!(io::stdout(), "{all}")?;
                writeln!(io::stderr(), "{all:?}")?;
                tracing::error!(%all, "{url}");
                panic!("{all}");
            }
            Do::Grandchild => raw::leave_grandchild()?,
            Do::Escapee { pid_file } => raw::leave_escapee(&pid_file)?,
            Do::Print { texts, pause_ms, until } => {
                for text in texts {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(text.as_bytes())?;
                    stdout.flush()?;
                    drop(stdout);
                    sleep(Duration::from_millis(pause_ms));
                }
                while until.as_ref().is_some_and(|path| !path.exists()) {
                    job.stop_point()?;
                    sleep(Duration::from_millis(10));
                }
            }
            Do::TempDir { path_file } => {
                std::fs::write(path_file, format!("{}\n", job.temp_dir()?.display()))?;
                loop {
                    job.stop_point()?;
                    sleep(Duration::from_millis(10));
                }
            }
            Do::Fetch { file } => {
                let file = job.files().fetch(&file)?;
                let text = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
                return Ok(json!({"name": file.name(), "content_type": file.content_type(), "text": text}));
            }
            Do::Upload { name, text } => {
                return Ok(serde_json::to_value(job.files().upload(Upload::bytes(&name, text))?)?);
            }
            Do::Leak { bytes } => self.leaked.push(vec![1; bytes]),
        }
        Ok(json!({
            "ok": true, "job": job.id(), "attempt": job.attempt(), "pid": std::process::id(), "slot": self.slot,
            "worker": self.worker_id,
        }))
    }
}

/// Ends this process by a signal. Repeated, because Rust's handler for stack overflows catches the first SIGSEGV.
pub(crate) fn die_of(signal: Signal) -> ! {
    loop {
        let _ = kill_process(getpid(), signal);
    }
}

fn main() -> ExitCode {
    // With `--manifest` the handler only prints.
    if std::env::args_os().nth(1).is_none() {
        let plan = start::plan();
        let _ = writeln!(io::stderr(), "puppet-handler: started as {} with plan {plan:?}", std::process::id());
        if let Some(status) = start::before_hello(&plan) {
            return status;
        }
    }
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if is_set("PUPPET_BATCH") {
        serve_batch::<batch::Batch>()
    } else if is_set("PUPPET_STEP") {
        serve_step::<step::Step>()
    } else if is_set("PUPPET_ASYNC") {
        serve_async::<concurrent::Concurrent>()
    } else {
        serve::<Puppet>()
    }
}
