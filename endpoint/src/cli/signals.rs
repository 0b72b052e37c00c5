//! Ctrl-C and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests to stop. From its creation on, the signals no longer end the process by themselves.
pub(crate) struct StopRequests {
    interrupt: Signal,
    terminate: Signal,
}

impl StopRequests {
    /// Must exist before anything is started that a stop has to end in order.
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Ends at the next request.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The message for a system that does not let signals be watched.
pub(crate) fn unwatched(error: &io::Error) -> String {
    format!("cannot watch for stop signals: {error}; raise the limit of open files (ulimit -n)")
}
