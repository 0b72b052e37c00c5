//! Log lines caught in memory, for tests.

use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, Subscriber, set_default};

use super::config::LogFormat;
use super::init::plain;

/// Makes this the subscriber of this thread while the guard lives.
///
/// When there is only one subscriber, `tracing` lets the thread that meets a log line first decide for all threads whether it is
/// wanted, and that may be a thread without a subscriber. A second one that never ends keeps it from that.
pub(crate) fn subscribe(subscriber: impl Subscriber + Send + Sync) -> DefaultGuard {
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
    set_default(subscriber)
}

/// Everything logged on this thread while the guard lives, as the worker would print it at level DEBUG.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    pub(crate) fn start(format: LogFormat, worker_id: &str) -> (Self, DefaultGuard) {
        let capture = Self::default();
        let writer = capture.clone();
        let guard = subscribe(plain(format, worker_id, move || writer.clone()));
        (capture, guard)
    }

    /// The lines; those in text form without their times, which differ from run to run.
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock();
        String::from_utf8_lossy(&bytes).split_inclusive('\n').map(without_time).collect()
    }
}

fn without_time(line: &str) -> &str {
    match line.split_once("Z ") {
        Some((time, rest)) if humantime::parse_rfc3339(&format!("{time}Z")).is_ok() => rest,
        _ => line,
    }
}

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
