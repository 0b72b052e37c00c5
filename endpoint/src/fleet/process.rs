//! Starts worker processes and ends them. The only place that does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;

use super::error::FleetError;
use super::output::WorkerOutput;
use crate::local::Local;

/// How long the system may take to report the end of a killed process.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// How long a program may take to print what it is asked for.
const CAPTURE_LIMIT: Duration = Duration::from_secs(60);

/// The endpoint's own secrets; the worker gets its key under the platform's name.
const WITHHELD: [&str; 4] = [
    "RUNPOD_ENDPOINT_ALERT_WEBHOOK",
    "RUNPOD_ENDPOINT_API_KEY",
    "RUNPOD_ENDPOINT_WEBHOOK_SECRET",
    "RUNPOD_ENDPOINT_WORKER_KEY",
];

/// Tells the worker to stop when its standard input ends, which this program holds open.
const STOP_WITH_STDIN: &str = "RUNPOD_WORKER_STOP_WITH_STDIN";

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct WorkerCommand {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl WorkerCommand {
    fn process(&self) -> tokio::process::Command {
        #[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
        let mut process = tokio::process::Command::new(&self.program);
        process.args(&self.args).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        for name in WITHHELD {
            process.env_remove(name);
        }
        process
    }
}

/// What the program prints, at most `max` bytes, if it exits with success and in time.
pub(crate) async fn capture(command: &WorkerCommand, max: usize) -> Option<Vec<u8>> {
    let mut child = command.process().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    let printed = async {
        let mut text = Vec::new();
        stdout.take(max as u64).read_to_end(&mut text).await.ok()?;
        let status = child.wait().await.ok()?;
        status.success().then_some(text)
    };
    timeout(CAPTURE_LIMIT, printed).await.ok()?
}

/// One running worker, leader of its own process group: Ctrl-C in a terminal reaches this program only.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    child: Child,
    pid: Option<Pid>,
    output: WorkerOutput,
    /// Never written to. It closes however this program ends, and then the worker stops.
    _alive: Option<ChildStdin>,
}

impl WorkerProcess {
    /// Starts the worker; its output goes where ours goes.
    pub(crate) fn start(
        command: &WorkerCommand,
        env: Vec<(&'static str, String)>,
        local: &Local,
    ) -> Result<Self, FleetError> {
        let mut child = command
            .process()
            .envs(env)
            .env(STOP_WITH_STDIN, "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| FleetError::Spawn { program: command.program.display().to_string(), error })?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // Left in there it would be closed by the first wait for the process.
        let alive = child.stdin.take();
        let output = WorkerOutput::of(&mut child, local);
        Ok(Self { child, pid, output, _alive: alive })
    }

    /// The process number, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the process to exit by itself. `None` when the system does not report how it exited.
    pub(crate) async fn wait(&mut self) -> Option<ExitStatus> {
        self.child.wait().await.ok()
    }

    /// Sends SIGTERM: the worker drains and exits.
    pub(crate) fn ask_to_stop(&self) {
        if let Some(pid) = self.pid.filter(|_| self.is_running()) {
            // It may have exited meanwhile; then there is nothing left to signal.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// SIGKILL to the worker and everything in its group, without waiting.
    pub(crate) fn kill_group(&self) {
        if let Some(pid) = self.pid.filter(|_| self.is_running()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Kills the worker and everything in its group, and waits for the system to report it.
    pub(crate) async fn kill(&mut self) {
        self.kill_group();
        if timeout(REAP_LIMIT, self.child.wait()).await.is_err() {
            tracing::warn!("A killed worker process has not exited. The system may be stuck in a driver call.");
        }
    }

    /// Waits, within a limit, until everything that the process has printed is passed on.
    pub(crate) async fn finish_output(&mut self) {
        self.output.rest().await;
    }

    /// Until the process has been waited for, its number cannot belong to another one.
    fn is_running(&self) -> bool {
        self.child.id().is_some()
    }
}
