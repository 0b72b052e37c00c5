//! Everything this program prints.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, StderrLock, StdoutLock, Write, stderr, stdout};

use runpod_log_line::printable;

use super::exit::Exit;

/// Results go to standard output, errors and notes to standard error.
#[derive(Debug, Default)]
pub struct Output {
    /// Standard output cannot be written any more.
    closed: bool,
    /// And that is an error: part of a result is missing, for example because a disk is full.
    incomplete: bool,
}

impl Output {
    /// Prints one line of a result and flushes it. A file or a pipe gets the text as it is, a terminal without control sequences.
    pub fn line(&mut self, text: &str) {
        if self.closed {
            return;
        }
        let mut out: StdoutLock<'_> = stdout().lock();
        let text = if out.is_terminal() { for_terminal(text) } else { Cow::Borrowed(text) };
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        drop(out);
        self.written(written);
    }

    /// Notes what became of text for standard output. A reader that has closed it, as `head` does, wants no more: that is no error.
    pub fn written(&mut self, outcome: io::Result<()>) {
        let Err(error) = outcome else { return };
        self.closed = true;
        if error.kind() != ErrorKind::BrokenPipe {
            self.incomplete = true;
            self.note(&format!(
                "runpod-endpoint: the output is incomplete: {error}; make room where it goes, or send it elsewhere"
            ));
        }
    }

    /// Whether nothing can be written to standard output any more: there is no point in going on.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The exit status, with regard to what could not be printed.
    #[must_use]
    pub fn end(&self, exit: Exit) -> Exit {
        if self.incomplete && exit == Exit::Success { Exit::Failure } else { exit }
    }

    /// Prints one line to standard error, without control sequences. It does not matter if that is closed.
    pub fn note(&mut self, text: &str) {
        let mut err: StderrLock<'_> = stderr().lock();
        let _ = writeln!(err, "{}", for_terminal(text));
    }

    /// Prints the error and returns the exit status.
    pub fn fail(&mut self, error: &impl Display, exit: Exit) -> Exit {
        self.note(&format!("runpod-endpoint: {error}"));
        exit
    }
}

/// The text with everything escaped that would steer a terminal, apart from line breaks and tabs.
fn for_terminal(text: &str) -> Cow<'_, str> {
    if matches!(printable(text), Cow::Borrowed(_)) {
        return Cow::Borrowed(text);
    }
    let lines = text.split('\n').map(|line| line.split('\t').map(printable).collect::<Vec<_>>().join("\t"));
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_line_breaks_and_tabs_and_no_sequences() {
        assert_eq!(for_terminal("a\tb\nc"), "a\tb\nc");
        assert_eq!(for_terminal("a\tb\u{1b}[2J\r\nc\u{9b}x"), "a\tb\\u{1b}[2J\\r\nc\\u{9b}x");
    }
}
