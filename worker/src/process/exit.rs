//! Learning that a handler process has ended, and how.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{SignalKind, signal};

use runpod_worker_core::ExitReason;

/// Waits for the end of a child without reaping it. As long as it is a zombie, its pid and group id cannot be given to
/// anybody else, so the rest of its group can still be signalled safely.
pub(super) async fn exited(pid: Pid) -> std::io::Result<()> {
    // Registered before the first look, so that an end in between is not missed.
    let mut children = signal(SignalKind::child())?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(pid), options)?.is_none() {
        children.recv().await;
    }
    Ok(())
}

/// Exit code or signal, from what the operating system reported.
pub(super) fn reason(status: std::io::Result<ExitStatus>) -> ExitReason {
    match status.map(|status| (status.code(), status.signal())) {
        Ok((Some(code), _)) => ExitReason::Code(code),
        Ok((None, Some(signal))) => ExitReason::Signal(signal),
        _ => ExitReason::Unknown,
    }
}
