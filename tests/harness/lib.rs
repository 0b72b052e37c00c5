//! What every end-to-end test needs: the real binaries, started as a user would start them, and a client.
//!
//! Tests wait for conditions with a limit, never for time. When a test fails, the logs of everything it started are shown.

#![expect(clippy::panic, reason = "the harness belongs to tests: what it cannot do fails the test")]

mod binaries;
mod client;
mod fake_nvml;
mod fake_queue;
mod faulty_proxy;
mod process;
mod stack;

pub use binaries::{binary, repository, run_tool};
pub use client::{Client, TERMINAL};
pub use fake_nvml::FakeNvml;
pub use fake_queue::{FakeQueue, Reply, Seen};
pub use faulty_proxy::FaultyProxy;
pub use process::Daemon;
pub use stack::{Endpoint, Stack, Worker, WorkerOptions, free_port, worker_env};

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a condition may take to come true before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
