//! The test handler as one that runs many jobs at once as futures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runpod_handler_sdk::{AsyncHandler, AsyncJob, Check, HandlerError, LoadEnv};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::start;

/// What a job does.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Do {
    /// Waits for so long.
    SleepMs { ms: u64 },
    /// Waits until a file exists at this path.
    WaitFor { path: PathBuf },
    /// Waits for ever, and writes to a file that it waits, and that its future was dropped.
    Guard { path: PathBuf },
    /// Blocks its thread for ever.
    Block,
    /// Panics.
    Panic,
    /// Returns a text of `bytes` bytes.
    BigOutput { bytes: usize },
    /// Streams the numbers from 1 to `n`.
    Stream { n: u64 },
    /// Runs this many jobs at once from the moment on when there is a file at this path.
    Concurrency { jobs: u32, after: PathBuf },
}

pub(crate) struct Concurrent;

/// Writes to a file when it is dropped.
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "dropped");
    }
}

/// Waits until a file exists at this path. A thousand jobs may do so at the same time.
async fn exists(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl AsyncHandler for Concurrent {
    type Input = Do;
    type Output = Value;
    type Chunk = Value;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn max_concurrency() -> u32 {
        1000
    }

    fn checks(_: &LoadEnv) -> Vec<Check> {
        vec![start::check()]
    }

    async fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        start::load(env)?;
        Ok(Self)
    }

    #[expect(clippy::panic, reason = "misbehaving is the purpose of this handler")]
    async fn run(&self, input: Do, job: AsyncJob<Value>) -> Result<Value, HandlerError> {
        match input {
            Do::SleepMs { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Do::WaitFor { path } => exists(&path).await,
            Do::Guard { path } => {
                std::fs::write(&path, "waits")?;
                let _guard = Guard(path);
                std::future::pending::<()>().await;
            }
            Do::Block => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            Do::BigOutput { bytes } => return Ok(json!("x".repeat(bytes))),
            Do::Panic => panic!("the puppet panics as asked"),
            Do::Stream { n } => {
                for item in 1..=n {
                    job.emit(json!(item)).await?;
                }
            }
            Do::Concurrency { jobs, after } => {
                exists(&after).await;
                job.concurrency().set(jobs);
            }
        }
        Ok(json!({"job": job.id(), "attempt": job.attempt(), "pid": std::process::id()}))
    }
}
