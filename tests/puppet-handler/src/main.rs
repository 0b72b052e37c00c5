//! A handler that misbehaves on command.
//!
//! What a job does is the `do` of its input (see [`Do`]); what the start does is the environment variable `PUPPET_START`
//! (see [`start`]). What the SDK would never let a handler do is done with raw frames (see [`raw`]).

mod raw;
mod start;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use runpod_handler_sdk::{Check, ErrorKind, Handler, HandlerError, Job, LoadEnv, Secret, serve};
use rustix::process::{Signal, getpid, kill_process};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// What CUDA says when a context is dead.
const LOST: &str = "CUDA error: an illegal memory access was encountered";

/// What a job does.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Do {
    /// Returns at once.
    Ok,
    /// Sleeps in one piece, deaf to a cancel, then returns.
    SleepMs { ms: u64 },
    /// Waits until there is a file at this path, then returns.
    WaitFor { path: PathBuf },
    /// Computes for ever.
    Spin,
    /// Waits for ever, deaf to a cancel.
    IgnoreCancel,
    /// Waits until it is cancelled, and ends at once.
    CheckCancel,
    /// Panics.
    Panic,
    /// Dies of SIGSEGV.
    Segv,
    /// Dies of SIGABRT.
    Abort,
    /// Says something on stderr and dies of SIGABRT.
    LastWords { text: String },
    /// Exits.
    Exit { code: i32 },
    /// Returns an error.
    Error,
    /// Returns a validation error.
    Validation,
    /// Asks for a model that nobody has.
    UnknownModel,
    /// Returns libtorch's text for an exhausted device.
    OomText,
    /// Returns libtorch's text for a lost device, which is not lost.
    CudaText,
    /// Panics with such a text.
    CudaPanic,
    /// Says that its device is lost.
    DeviceLost,
    /// Streams the numbers from 1 to `n`.
    Stream { n: u64 },
    /// Streams `n` texts of that many bytes.
    StreamBytes { n: u64, bytes: usize },
    /// Reports progress `n` times.
    Progress { n: u64 },
    /// Returns a text of that many bytes.
    BigOutput { bytes: usize },
    /// Stops the whole process, control thread and all.
    Freeze,
    /// Returns and asks for a fresh worker.
    Refresh,
    /// Records a figure.
    Record { name: String, value: f64 },
    /// Prints that many lines of that length to stdout, and as many to stderr.
    Log { lines: u64, bytes: usize },
    /// Logs an event of each level, with that text.
    Events { text: String },
    /// Returns the trace context that it was given.
    Trace,
    /// Prints everything it was told in confidence, wherever it can, then panics with it.
    Blab { token: Secret, url: String },
    /// Leaves a grandchild behind that keeps stdout and stderr open.
    Grandchild,
    /// Keeps this much more host memory, for ever.
    Leak { bytes: usize },
}

struct Puppet {
    slot: u32,
    worker_id: String,
    leaked: Vec<Vec<u8>>,
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

    #[expect(clippy::panic, reason = "misbehaving is its purpose")]
    fn run(&mut self, input: Do, job: &Job<Value>) -> Result<Value, HandlerError> {
        match input {
            Do::Ok => {}
            Do::SleepMs { ms } => sleep(Duration::from_millis(ms)),
            Do::WaitFor { path } => {
                while !path.exists() {
                    job.check()?;
                    sleep(Duration::from_millis(10));
                }
            }
            Do::Spin => loop {
                std::hint::spin_loop();
            },
            Do::IgnoreCancel => loop {
                sleep(Duration::from_millis(10));
            },
            Do::CheckCancel => loop {
                job.check()?;
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
            Do::StreamBytes { n, bytes } => {
                for _ in 0..n {
                    job.emit(json!("x".repeat(bytes)))?;
                }
            }
            Do::Progress { n } => (1..=n).for_each(|step| job.progress(json!({"step": step}))),
            Do::BigOutput { bytes } => return Ok(json!("x".repeat(bytes))),
            Do::Freeze => {
                kill_process(getpid(), Signal::STOP)?;
                // The stop reaches the threads one by one, and this one must not answer meanwhile.
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
            Do::Leak { bytes } => self.leaked.push(vec![1; bytes]),
        }
        Ok(json!({
            "ok": true, "job": job.id(), "attempt": job.attempt(), "pid": std::process::id(), "slot": self.slot,
            "worker": self.worker_id,
        }))
    }
}

/// Dies of a signal. The first SIGSEGV is swallowed by the handler that Rust installs to explain stack overflows.
pub(crate) fn die_of(signal: Signal) -> ! {
    loop {
        let _ = kill_process(getpid(), signal);
    }
}

fn main() -> ExitCode {
    // `--manifest` is no start.
    if std::env::args_os().nth(1).is_none() {
        let plan = start::plan();
        let _ = writeln!(io::stderr(), "puppet-handler: started as {} with plan {plan:?}", std::process::id());
        if let Some(status) = start::before_hello(&plan) {
            return status;
        }
    }
    serve::<Puppet>()
}
