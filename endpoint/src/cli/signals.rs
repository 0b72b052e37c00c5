//! Ctrl-C and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests to stop. Once this exists, the signals no longer end the process.
pub(crate) struct StopRequests {
    interrupt: Signal,
    terminate: Signal,
}

impl StopRequests {
    /// Must be called before anything is started that needs an orderly stop.
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// What comes of this unless a request comes first.
    pub(crate) async fn or_stop<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.next() => None,
        }
    }

    /// Waits for the next request.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The message when the system refuses to report signals.
pub(crate) fn unwatched(error: &io::Error) -> String {
    format!("cannot watch for stop signals: {error}; raise the limit of open files (ulimit -n)")
}
