//! Everything this program prints.

use std::fmt::Display;
use std::io::{StderrLock, StdoutLock, Write, stderr, stdout};

use super::exit::Exit;

/// Results go to standard output, complaints to standard error.
#[derive(Debug, Default)]
pub struct Output {
    /// Nobody reads standard output any more.
    closed: bool,
}

impl Output {
    /// One line of result, at once.
    pub fn line(&mut self, text: &str) {
        let mut out: StdoutLock<'_> = stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            self.closed = true;
        }
    }

    /// Whether the reader of standard output has gone, as `head` does.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// One line of remark. A closed standard error is no reason to stop.
    pub fn note(&mut self, text: &str) {
        let mut err: StderrLock<'_> = stderr().lock();
        let _ = writeln!(err, "{text}");
    }

    /// Tells what went wrong and passes the exit status on.
    pub fn fail(&mut self, error: &impl Display, exit: Exit) -> Exit {
        self.note(&format!("runpod-endpoint: {error}"));
        exit
    }
}
