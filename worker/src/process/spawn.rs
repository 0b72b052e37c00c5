//! Starts a handler process: its own process group, one end of a socket pair as stdin, pipes for stdout and stderr.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::io::Errno;
use rustix::process::Pid;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::descendants::Start;
use super::group::Group;
use super::run_folder;

/// Environment variables of the worker that user code has no use for: credentials, and addresses that carry them.
/// Those of OpenTelemetry are left: a handler may export its own traces and metrics with them.
const WITHHELD: [&str; 2] = ["RUNPOD_AI_API_KEY", "RUNPOD_WORKER_ALERT_WEBHOOK"];
/// How the names of others begin.
const WITHHELD_PREFIXES: [&str; 2] = ["RUNPOD_WEBHOOK_", "RUNPOD_WORKER_LOG_SINK"];

/// How to start a handler process. It inherits the worker's environment except for the worker's credentials.
#[derive(Clone, Debug, Default)]
pub struct HandlerCommand {
    /// The program; looked up in `PATH` when it contains no slash.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables to add.
    pub env: Vec<(OsString, OsString)>,
}

/// A program that cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum SpawnError {
    #[error("handler program {program} was not found: check the path after `--`, and that the image contains the file")]
    NotFound { program: String },
    #[error(
        "handler program {program} may not be executed: run `chmod +x` on it, and check that its file system is not mounted noexec"
    )]
    NotExecutable { program: String },
    #[error(
        "handler program {program} is not a program for this machine: build it for the image's architecture, or start a script with a `#!` line"
    )]
    WrongFormat { program: String },
    #[error("handler program {program} could not be started: {source}")]
    Os { program: String, source: io::Error },
    #[error("no socket for the handler process: {source}; check the limit on open files (ulimit -n)")]
    Socket { source: io::Error },
}

impl SpawnError {
    /// Trying again cannot help.
    pub(super) fn is_permanent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotExecutable { .. } | Self::WrongFormat { .. })
    }

    fn from_os(program: &Path, source: io::Error) -> Self {
        let program = program.display().to_string();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { program },
            io::ErrorKind::PermissionDenied => Self::NotExecutable { program },
            _ if source.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => Self::WrongFormat { program },
            _ => Self::Os { program, source },
        }
    }
}

/// A running handler process and the three ways to hear from it.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) pid: Pid,
    pub(super) link: UnixStream,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Starts the program with the folder for its temporary files, and registers it with `group`. Blocks until the new process has executed it (milliseconds, or
/// longer from a slow file system). Needs a tokio runtime around it.
pub(super) fn spawn(command: &HandlerCommand, folder: Option<&Path>, group: &Group) -> Result<Spawned, SpawnError> {
    let socket_error = |source| SpawnError::Socket { source };
    let (ours, theirs) = UnixStream::pair().map_err(socket_error)?;
    ours.set_nonblocking(true).map_err(socket_error)?;

    let mut builder = build(command, std::env::vars_os().map(|(name, _)| name));
    builder.stdin(Stdio::from(OwnedFd::from(theirs)));
    builder.stdout(Stdio::piped()).stderr(Stdio::piped());
    builder.process_group(0);
    builder.envs(folder.map(run_folder::variable));

    let start = Start::begin();
    let mut child = builder.spawn().map_err(|source| SpawnError::from_os(&command.program, source))?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        start.started(pid, folder.map(Path::to_owned));
        group.started(pid);
    }
    match (pid, child.stdout.take(), child.stderr.take()) {
        (Some(pid), Some(stdout), Some(stderr)) => Ok(Spawned { child, pid, link: ours, stdout, stderr }),
        // Cannot happen: the child has not been waited for, and both pipes were asked for above.
        _ => Err(SpawnError::from_os(&command.program, io::ErrorKind::BrokenPipe.into())),
    }
}

/// The program with its arguments and environment; `inherited` are the names of the worker's own variables.
#[expect(clippy::disallowed_methods, reason = "the one place of the worker that starts processes")]
fn build(command: &HandlerCommand, inherited: impl Iterator<Item = OsString>) -> Command {
    let mut builder = Command::new(&command.program);
    builder.args(&command.args);
    for name in inherited.filter(|name| is_withheld(name)) {
        builder.env_remove(name);
    }
    builder.envs(command.env.iter().map(|(name, value)| (name, value)));
    builder
}

/// Replaces this program by bash with the script, under the name that its messages show. Returns only when that fails.
#[expect(clippy::disallowed_methods, reason = "the one place of the worker that starts processes")]
pub fn become_script(script: &str, name: &str, args: &[OsString]) -> io::Error {
    std::process::Command::new("bash").arg("-c").arg(script).arg(name).args(args).exec()
}

fn is_withheld(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| WITHHELD.contains(&name) || WITHHELD_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_the_worker_are_withheld() {
        let inherited = [
            "OTEL_EXPORTER_OTLP_HEADERS",
            "PATH",
            "RUNPOD_AI_API_KEY",
            "RUNPOD_POD_ID",
            "RUNPOD_WEBHOOK_GET_JOB",
            "RUNPOD_WEBHOOK_JOB_STREAM",
            "RUNPOD_WEBHOOK_PING",
            "RUNPOD_WEBHOOK_POST_OUTPUT",
            "RUNPOD_WEBHOOK_POST_STREAM",
            "RUNPOD_WORKER_ALERT_RULES",
            "RUNPOD_WORKER_ALERT_WEBHOOK",
            "RUNPOD_WORKER_LOG_SINK",
            "RUNPOD_WORKER_LOG_SINK_TOKEN",
        ];
        let command = HandlerCommand {
            env: vec![("RUNPOD_WEBHOOK_PING".into(), "given on purpose".into()), ("ONE".into(), "1".into())],
            ..HandlerCommand::default()
        };
        let builder = build(&command, inherited.into_iter().map(OsString::from));
        let changes: Vec<_> = builder.as_std().get_envs().collect();
        let expected: [(&str, Option<&str>); 10] = [
            ("ONE", Some("1")),
            ("RUNPOD_AI_API_KEY", None),
            ("RUNPOD_WEBHOOK_GET_JOB", None),
            ("RUNPOD_WEBHOOK_JOB_STREAM", None),
            ("RUNPOD_WEBHOOK_PING", Some("given on purpose")),
            ("RUNPOD_WEBHOOK_POST_OUTPUT", None),
            ("RUNPOD_WEBHOOK_POST_STREAM", None),
            ("RUNPOD_WORKER_ALERT_WEBHOOK", None),
            ("RUNPOD_WORKER_LOG_SINK", None),
            ("RUNPOD_WORKER_LOG_SINK_TOKEN", None),
        ];
        assert_eq!(changes, expected.map(|(name, value)| (OsStr::new(name), value.map(OsStr::new))));
    }
}
