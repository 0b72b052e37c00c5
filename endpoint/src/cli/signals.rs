//! Ctrl-C, SIGTERM and the end of the terminal.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests to stop. Once this exists, the signals no longer end the process.
pub(crate) struct StopRequests {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl StopRequests {
    /// Must be called before anything is started that needs an orderly stop.
    pub(crate) fn watch() -> io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: None })
    }

    /// Takes the end of the terminal for a request too, unless the process is to outlive it, as with `nohup`.
    pub(crate) fn or_hangup(self) -> io::Result<Self> {
        let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { hangup, ..self })
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
        let Self { interrupt, terminate, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether this process was started with SIGHUP ignored. A handler would end that.
fn ignores_hangup() -> bool {
    // Signals are counted from 1.
    let bit = 1 << (SignalKind::hangup().as_raw_value() - 1);
    procfs::process::Process::myself().and_then(|own| own.status()).is_ok_and(|status| status.sigign & bit != 0)
}

/// The message when the system refuses to report signals.
pub(crate) fn unwatched(error: &io::Error) -> String {
    format!("cannot watch for stop signals: {error}; raise the limit of open files (ulimit -n)")
}
