//! Everything this program prints.

use std::fmt::Display;
use std::io::{StderrLock, StdoutLock, Write, stderr, stdout};

use super::exit::Exit;

/// Results go to standard output, errors and notes to standard error.
#[derive(Debug, Default)]
pub struct Output {
    /// Standard output cannot be written any more.
    closed: bool,
}

impl Output {
    /// Prints one line of a result and flushes it.
    pub fn line(&mut self, text: &str) {
        let mut out: StdoutLock<'_> = stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            self.closed = true;
        }
    }

    /// Whether the reader of standard output has closed it, as `head` does.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Prints one line to standard error. It does not matter if that is closed.
    pub fn note(&mut self, text: &str) {
        let mut err: StderrLock<'_> = stderr().lock();
        let _ = writeln!(err, "{text}");
    }

    /// Prints the error and returns the exit status.
    pub fn fail(&mut self, error: &impl Display, exit: Exit) -> Exit {
        self.note(&format!("runpod-endpoint: {error}"));
        exit
    }
}
