//! What a worker prints: passed on to this program's own output, and kept where it is about a job.

use std::io::{self, Write};
use std::time::Duration;

use runpod_log_line::printable;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::local::Local;

/// Longer lines are passed on in pieces.
const MAX_LINE: u64 = 64 << 10;

/// Limit of the wait for the last lines of a process that has exited. A child of it may keep the pipe open for longer.
const REST_LIMIT: Duration = Duration::from_secs(1);

/// Reads the output of one worker process until it ends.
#[derive(Debug)]
pub(super) struct WorkerOutput {
    readers: JoinSet<()>,
}

impl WorkerOutput {
    /// Reads what the process prints into its pipes.
    pub(super) fn of(child: &mut Child, local: &Local) -> Self {
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            let local = local.clone();
            readers.spawn(async move {
                pass_on(stdout, io::stdout(), &local).await;
            });
        }
        if let Some(stderr) = child.stderr.take() {
            let local = local.clone();
            readers.spawn(async move {
                pass_on(stderr, io::stderr(), &local).await;
            });
        }
        Self { readers }
    }

    /// Waits, within a limit, for the last lines of a process that has exited.
    pub(super) async fn rest(&mut self) {
        let ending = async { while self.readers.join_next().await.is_some() {} };
        let _ = timeout(REST_LIMIT, ending).await;
    }
}

/// Copies until the end of `from`; gives `to` back, unless the runtime is going down.
async fn pass_on<W: Write + Send + 'static>(from: impl AsyncRead + Unpin, mut to: W, local: &Local) -> Option<W> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(true) = read_line(&mut from, &mut line).await {
        let text = String::from_utf8_lossy(&line);
        local.logs().add(&text);
        let text = for_terminal(&text);
        // Writing to a terminal that was stopped blocks.
        let writing = spawn_blocking(move || {
            // The reader of our output may have closed it; the worker goes on all the same.
            let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
            to
        });
        to = writing.await.ok()?;
    }
    Some(to)
}

/// A line or piece of a line with everything escaped that a terminal would act on. A worker escapes its log itself; what it prints
/// otherwise, such as the report of a crash, may quote what comes from outside.
fn for_terminal(text: &str) -> String {
    match text.strip_suffix('\n') {
        Some(line) => format!("{}\n", printable(line.strip_suffix('\r').unwrap_or(line))),
        None => printable(text).into_owned(),
    }
}

/// The next line or piece of a line; false at the end.
async fn read_line(from: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    from.take(MAX_LINE).read_until(b'\n', line).await.map(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_that_is_passed_on_steers_a_terminal() {
        let text = "panicked at \u{1b}[2J\u{9b}31m\rINFO   | forged\r\nnext \u{202e}line\n";
        let passed = pass_on(text.as_bytes(), Vec::new(), &Local::default()).await.unwrap();
        let passed = String::from_utf8(passed).unwrap();
        assert_eq!(passed, "panicked at \\u{1b}[2J\\u{9b}31m\\rINFO   | forged\nnext \\u{202e}line\n");
    }

    #[tokio::test]
    async fn everything_is_passed_on_and_lines_of_jobs_are_kept() {
        let long = "y".repeat(2 * MAX_LINE as usize);
        let text = format!("plain\nINFO   | j | Started.\n{long}\nlast");
        let local = Local::default();
        let passed = pass_on(text.as_bytes(), Vec::new(), &local).await;
        assert!(passed.is_some_and(|passed| passed == text.as_bytes()));
        let (lines, _) = local.logs().after("j", 0).await;
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["Started."]);
    }
}
