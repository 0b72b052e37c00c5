//! A program that runs beside the test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::until;

/// A child process in a group of its own, with its output in a file. Killed with its group when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// Starts a program with these arguments and these additional environment variables.
    ///
    /// # Panics
    /// When it cannot be started.
    #[expect(clippy::disallowed_methods, reason = "the harness starts the programs under test")]
    pub fn start(name: &str, program: &Path, args: &[String], env: &[(String, String)]) -> Self {
        use std::os::unix::process::CommandExt as _;
        let start = || -> std::io::Result<Self> {
            let folder = TempDir::new()?;
            let log = File::create(folder.path().join("log"))?;
            let child = Command::new(program)
                .args(args)
                .env_remove("RUNPOD_ENDPOINT_ID")
                // Tests that run at the same time use the same worker id, and must not meet in the user's state folder.
                .env("RUNPOD_WORKER_SPOOL_DIR", folder.path().join("spool"))
                .envs(env.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .spawn()?;
            Ok(Self { name: name.to_owned(), child, folder })
        };
        start().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()))
    }

    /// Process id.
    ///
    /// # Panics
    /// Never: a child has a positive id.
    pub fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap_or_else(|| panic!("no pid"))
    }

    /// Sends a signal to the process alone, not to its group.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until its output contains this text.
    pub async fn logs(&self, words: &str) {
        until(&format!("{:?} in the log of {}", words, self.name), || self.log().contains(words)).await;
    }

    /// A folder that lives as long as the process.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it is still there after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if begin.elapsed() < limit => std::thread::sleep(Duration::from_millis(10)),
                other => panic!("{} did not end within {limit:?}: {other:?}", self.name),
            }
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the log of a failed test belongs on the terminal")]
            {
                eprintln!("---- {} ----\n{}", self.name, self.log());
            }
        }
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Runs a script, which waits for the end of its standard input, once this process has ended or dropped the guard. `$0` and what follows
/// are `args`.
#[expect(clippy::disallowed_methods, reason = "the harness starts the programs under test")]
pub(crate) fn guard(script: &str, args: &[&str]) -> Child {
    use std::os::unix::process::CommandExt as _;
    let mut guard = Command::new("sh");
    guard.args(["-c", script]).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Of a group of its own: the end of the test's group must not be the end of the guard.
    guard.process_group(0).spawn().unwrap_or_else(|error| panic!("cannot start sh: {error}"))
}
