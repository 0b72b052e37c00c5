//! What a handler process prints: split into lines, shortened, rate-limited.
//!
//! A progress bar overwrites its line: a carriage return that no line feed follows moves the cursor back to its start. What stands in
//! such a line is its state. A state is passed on once a second if it has changed, and the last one always.

use runpod_handler_protocol::{LOG_MARK, MAX_LOG_LINE};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::limits::{MAX_LINE_LEN, RATE_WINDOW, STATE_INTERVAL};

/// What [`read_lines`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A line within the rate limit.
    Line(String),
    /// The state of a line that is being overwritten, within the rate limit. The next state or line takes its place.
    State(String),
    /// A line over the rate limit: not for the log.
    Excess(String),
    /// A state over the rate limit: not for the log. The next state or line takes its place.
    ExcessState(String),
    /// That many lines were over the limit, up to now.
    Dropped(u64),
}

/// Reads to end-of-file and passes on `rate` lines a second, all of them when it is 0. After `stop` it takes what is already
/// there and returns. Blank lines are left out.
pub(super) async fn read_lines(
    mut stream: impl AsyncRead + Unpin,
    stop: CancellationToken,
    rate: u32,
    mut emit: impl FnMut(Output),
) {
    let mut chunk = vec![0; 8192];
    let mut splitter = Splitter::default();
    let mut budget = Budget::new(Instant::now(), rate);
    // When the next state is due, if one has not been passed on.
    let mut state_due: Option<Instant> = None;
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut chunk) => read.unwrap_or(0),
            () = stop.cancelled() => 0,
            () = sleep_until(budget.window_end()), if budget.dropped > 0 => {
                emit(Output::Dropped(budget.renew(Instant::now())));
                continue;
            }
            () = sleep_until(state_due.unwrap_or_else(Instant::now)), if state_due.is_some() => {
                renew_if_over(&mut budget, &mut emit);
                pass_state(&mut splitter, &mut budget, &mut emit);
                // A state over the rate limit is due again.
                state_due = splitter.has_new_state().then(|| Instant::now() + STATE_INTERVAL);
                continue;
            }
        };
        let now = Instant::now();
        renew_if_over(&mut budget, &mut emit);
        let mut pass = |line| emit(if budget.take() { Output::Line(line) } else { Output::Excess(line) });
        if read == 0 {
            splitter.finish(&mut pass);
            break;
        }
        splitter.push(&chunk[..read], &mut pass);
        // A stream that never pauses keeps the timer above from firing.
        if state_due.is_some_and(|due| now >= due) {
            pass_state(&mut splitter, &mut budget, &mut emit);
            state_due = None;
        }
        match (splitter.has_new_state(), state_due) {
            (true, None) => state_due = Some(now + STATE_INTERVAL),
            (false, Some(_)) => state_due = None,
            _ => {}
        }
    }
    if budget.dropped > 0 {
        emit(Output::Dropped(budget.dropped));
    }
}

fn renew_if_over(budget: &mut Budget, emit: &mut impl FnMut(Output)) {
    let now = Instant::now();
    if now >= budget.window_end() {
        let dropped = budget.renew(now);
        if dropped > 0 {
            emit(Output::Dropped(dropped));
        }
    }
}

fn pass_state(splitter: &mut Splitter, budget: &mut Budget, emit: &mut impl FnMut(Output)) {
    let Some(state) = splitter.new_state() else { return };
    if budget.take() {
        splitter.passed = Some(state.clone());
        emit(Output::State(state));
    } else {
        emit(Output::ExcessState(state));
    }
}

/// Joins chunks of bytes to lines.
#[derive(Debug, Default)]
struct Splitter {
    line: Text,
    /// The last byte was a carriage return; the next one tells whether it ends the line or only overwrites it.
    after_return: bool,
    /// The state that the current line had before it was overwritten.
    overwritten: Option<Text>,
    /// The state of the current line that was passed on last.
    passed: Option<String>,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(String)) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.append(&rest[..at]);
            if rest[at] == b'\n' {
                self.finish(emit);
            } else {
                self.overwrite();
                self.after_return = true;
            }
            rest = &rest[at + 1..];
        }
        self.append(rest);
    }

    fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.overwrite();
            self.line.append(bytes);
        }
    }

    /// What comes next overwrites the line, if a carriage return came last.
    fn overwrite(&mut self) {
        if std::mem::take(&mut self.after_return) {
            let line = std::mem::take(&mut self.line);
            // An empty line overwrites nothing.
            if !line.is_blank() || self.overwritten.is_none() {
                self.overwritten = Some(line);
            }
        }
    }

    /// What the current line shows: itself, or what it is about to overwrite.
    fn state(&self) -> Option<&Text> {
        let overwritten = self.overwritten.as_ref()?;
        Some(if self.line.is_blank() { overwritten } else { &self.line })
    }

    fn has_new_state(&self) -> bool {
        self.new_state().is_some()
    }

    /// The state of the current line, unless it was passed on already.
    fn new_state(&self) -> Option<String> {
        let state = self.state()?.to_text();
        (!state.is_empty() && self.passed.as_ref() != Some(&state)).then_some(state)
    }

    /// Ends the current line, if there is one.
    fn finish(&mut self, emit: &mut impl FnMut(String)) {
        self.after_return = false;
        let line = std::mem::take(&mut self.line);
        let overwritten = self.overwritten.take();
        let text = if line.is_blank() { overwritten.unwrap_or_default().to_text() } else { line.to_text() };
        // Passed on as a state already: the last one is the line.
        if !text.is_empty() && self.passed.take() != Some(text.clone()) {
            emit(text);
        }
        self.passed = None;
    }
}

/// The bytes of a line, up to a limit.
#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    /// Bytes over the limit.
    cut: usize,
}

impl Text {
    fn append(&mut self, bytes: &[u8]) {
        let first = self.bytes.first().or(bytes.first());
        let most = if first == Some(&LOG_MARK) { MAX_LOG_LINE } else { MAX_LINE_LEN };
        let room = bytes.len().min(most - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        self.cut += bytes.len() - room;
    }

    fn is_blank(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }

    fn to_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut text = text.trim_end().to_owned();
        if self.cut > 0 {
            text.push_str(&format!(" … ({} more bytes)", self.cut));
        }
        text
    }
}

/// How many lines may still pass in the current window.
#[derive(Debug)]
struct Budget {
    start: Instant,
    rate: u32,
    left: u32,
    dropped: u64,
}

impl Budget {
    fn new(now: Instant, rate: u32) -> Self {
        Self { start: now, rate, left: rate, dropped: 0 }
    }

    fn window_end(&self) -> Instant {
        self.start + RATE_WINDOW
    }

    /// Opens a new window; answers how many lines the old one dropped.
    fn renew(&mut self, now: Instant) -> u64 {
        std::mem::replace(self, Self::new(now, self.rate)).dropped
    }

    fn take(&mut self) -> bool {
        if self.rate == 0 || self.left > 0 {
            self.left = self.left.saturating_sub(1);
            return true;
        }
        self.dropped += 1;
        false
    }
}

#[cfg(test)]
mod tests;
