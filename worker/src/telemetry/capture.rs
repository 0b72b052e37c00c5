//! Log lines caught in memory, for tests.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::util::SubscriberInitExt;

use super::logs::plain;
use crate::config::LogFormat;

/// Everything logged on this thread while the guard lives, as the worker would print it at level DEBUG.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    pub(crate) fn start(format: LogFormat, worker_id: &str) -> (Self, DefaultGuard) {
        let capture = Self::default();
        let writer = capture.clone();
        let guard = plain(format, worker_id, move || writer.clone()).set_default();
        (capture, guard)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
