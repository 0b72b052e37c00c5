//! What every end-to-end test needs: the real binaries, started as a user would start them, and a client.
//!
//! Tests wait for conditions with a limit, never for time. When a test fails, the logs of everything it started are shown.

#![expect(clippy::panic, reason = "the harness belongs to tests: what it cannot do fails the test")]

mod binaries;
mod client;
mod eventually;
mod fake_nvml;
mod fake_queue;
mod faulty_proxy;
mod lab;
mod postgres;
mod postgres_cluster;
mod process;
mod receiver;
mod s3;
mod stack;

pub use binaries::{binary, repository, run_tool, run_tool_in};
pub use client::{Client, TERMINAL};
pub use eventually::{PATIENCE, eventually, until};
pub use fake_nvml::FakeNvml;
pub use fake_queue::{FakeQueue, Reply, Seen};
pub use faulty_proxy::FaultyProxy;
pub use lab::{Cut, Host, Lab};
pub use postgres::{Postgres, Session};
pub use postgres_cluster::PostgresCluster;
pub use process::Daemon;
pub use receiver::{Posted, Receiver};
pub use s3::S3Server;
pub use stack::{Endpoint, Stack, Worker, WorkerOptions, free_port, worker_env};

use std::io::{self, Write as _};
use std::path::Path;

/// Set to `fail`, it turns every test that cannot run here into a failure, except those that need a GPU. `make test` sets it.
const SKIPS: &str = "TEST_SKIPS";

/// Reports on the terminal that something was not tested here, and why. The test then returns.
///
/// # Panics
/// With `TEST_SKIPS=fail` in the environment.
pub fn not_tested(why: &str) {
    assert!(std::env::var(SKIPS).as_deref() != Ok("fail"), "not tested, and {SKIPS}=fail: {why}");
    report_not_tested(why);
}

/// Whether this machine has an NVIDIA GPU.
pub fn has_gpu() -> bool {
    Path::new("/dev/nvidiactl").exists()
}

/// As [`not_tested`], for what depends on whether the machine has a GPU. That is never a failure: few machines have one.
pub fn gpu_not_tested(why: &str) {
    report_not_tested(why);
}

/// Straight to stderr: what a test prints is shown only when it fails.
fn report_not_tested(why: &str) {
    let _ = writeln!(io::stderr(), "*** NOT TESTED: {why} ***");
}
