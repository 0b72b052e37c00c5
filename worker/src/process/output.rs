//! What a handler process prints: split into lines, capped, rate-limited.

use runpod_handler_protocol::{LOG_MARK, MAX_LOG_LINE};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::limits::{MAX_LINE_LEN, RATE_WINDOW};

/// What [`read_lines`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A line within the rate limit.
    Line(String),
    /// A line over the rate limit: not for the log.
    Excess(String),
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
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut chunk) => read.unwrap_or(0),
            () = stop.cancelled() => 0,
            () = sleep_until(budget.window_end()), if budget.dropped > 0 => {
                emit(Output::Dropped(budget.renew(Instant::now())));
                continue;
            }
        };
        let now = Instant::now();
        if now >= budget.window_end() {
            let dropped = budget.renew(now);
            if dropped > 0 {
                emit(Output::Dropped(dropped));
            }
        }
        let mut pass = |line| emit(if budget.take() { Output::Line(line) } else { Output::Excess(line) });
        if read == 0 {
            splitter.finish(&mut pass);
            break;
        }
        splitter.push(&chunk[..read], &mut pass);
    }
    if budget.dropped > 0 {
        emit(Output::Dropped(budget.dropped));
    }
}

/// Joins chunks of bytes to lines.
#[derive(Debug, Default)]
struct Splitter {
    line: Vec<u8>,
    /// Bytes of the current line over the limit.
    cut: usize,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(String)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.append(&rest[..end]);
            self.finish(emit);
            rest = &rest[end + 1..];
        }
        self.append(rest);
    }

    fn append(&mut self, bytes: &[u8]) {
        let first = self.line.first().or(bytes.first());
        let most = if first == Some(&LOG_MARK) { MAX_LOG_LINE } else { MAX_LINE_LEN };
        let room = bytes.len().min(most - self.line.len());
        self.line.extend_from_slice(&bytes[..room]);
        self.cut += bytes.len() - room;
    }

    /// Ends the current line, if there is one.
    fn finish(&mut self, emit: &mut impl FnMut(String)) {
        let text = String::from_utf8_lossy(&self.line);
        let mut text = text.trim_end().to_owned();
        if self.cut > 0 {
            text.push_str(&format!(" … ({} more bytes)", self.cut));
        }
        self.line.clear();
        self.cut = 0;
        if !text.is_empty() {
            emit(text);
        }
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
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::logs::redact;

    const LINES_PER_WINDOW: u32 = 500;

    async fn collect(bytes: &[u8]) -> Vec<Output> {
        let mut outputs = Vec::new();
        read_lines(bytes, CancellationToken::new(), 0, |output| outputs.push(output)).await;
        outputs
    }

    fn line(text: &str) -> Output {
        Output::Line(text.to_owned())
    }

    #[tokio::test]
    async fn splits_lines_and_keeps_an_unfinished_last_one() {
        let outputs = collect(b"one\r\n\n  two\nbroken \xff utf-8\nlast").await;
        assert_eq!(outputs, [line("one"), line("  two"), line("broken \u{fffd} utf-8"), line("last")]);
    }

    #[tokio::test]
    async fn cuts_long_lines_and_says_so() {
        let mut bytes = vec![b'x'; MAX_LINE_LEN + 20_000];
        bytes.extend_from_slice(b"\nnext\n");
        let outputs = collect(&bytes).await;
        let Output::Line(first) = &outputs[0] else { panic!("{outputs:?}") };
        assert_eq!(first, &format!("{} … (20000 more bytes)", "x".repeat(MAX_LINE_LEN)));
        assert_eq!(outputs[1..], [line("next")]);
    }

    #[tokio::test]
    async fn a_secret_that_the_cut_goes_through_is_recognised_by_its_beginning() {
        redact::add("secret-across-the-cut");
        let text = format!("{}secret-across-the-cut{}\n", "x".repeat(MAX_LINE_LEN - 10), "y".repeat(100));
        let outputs = collect(text.as_bytes()).await;
        let Output::Line(first) = &outputs[0] else { panic!("{outputs:?}") };
        let cleaned = redact::clean(first);
        assert!(cleaned.contains("xx***… (") && !cleaned.contains("secret"), "{}", &cleaned[MAX_LINE_LEN - 20..]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_limited_counted_and_over_after_a_window() {
        let (mut writer, reader) = tokio::io::duplex(64 * 1024);
        let (sender, mut outputs) = tokio::sync::mpsc::channel(4096);
        let task = tokio::spawn(async move {
            read_lines(reader, CancellationToken::new(), LINES_PER_WINDOW, |output| sender.try_send(output).unwrap())
                .await;
        });
        let flood = "a\n".repeat(LINES_PER_WINDOW as usize + 7);
        writer.write_all(flood.as_bytes()).await.unwrap();
        for _ in 0..LINES_PER_WINDOW {
            assert_eq!(outputs.recv().await, Some(line("a")));
        }
        for _ in 0..7 {
            assert_eq!(outputs.recv().await, Some(Output::Excess("a".to_owned())));
        }
        // The stream is still open: the report comes by itself when the window ends.
        assert_eq!(outputs.recv().await, Some(Output::Dropped(7)));
        writer.write_all(b"b\n").await.unwrap();
        assert_eq!(outputs.recv().await, Some(line("b")));
        drop(writer);
        task.await.unwrap();
        assert_eq!(outputs.recv().await, None);
    }

    #[tokio::test]
    async fn stop_takes_what_is_there_and_returns() {
        let (mut writer, reader) = tokio::io::duplex(1024);
        writer.write_all(b"first\nhalf").await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let mut outputs = Vec::new();
        read_lines(reader, stop, LINES_PER_WINDOW, |output| outputs.push(output)).await;
        assert_eq!(outputs, [line("first"), line("half")]);
        drop(writer);
    }
}
