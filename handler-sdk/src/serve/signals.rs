//! The signals that ask a process to end. Some environments send them to every process of a service at once: systemd with
//! `KillMode=control-group`, Ctrl-C in a terminal, `kill -- -PGID`. Only the worker decides when a handler process ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

/// Keeps these signals from ending this process.
///
/// They are caught and not ignored: a program that user code starts would inherit that it ignores them, and could not be
/// stopped in the usual way. A handler of user code that is installed later is called, too.
pub(super) fn leave_to_worker() -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        flag::register(signal, Arc::clone(&seen))?;
    }
    Ok(())
}
