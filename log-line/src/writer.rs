//! The thread that writes log lines, so that a slow reader of the log holds up no other thread.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that may wait. A reader of the log is rarely more than a few lines behind.
pub const WRITER_QUEUE: usize = 8192;
/// How long the end of the program waits for the log.
pub const WRITER_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the end of the program tries again to reach a full writer.
const FLUSH_PAUSE: Duration = Duration::from_millis(5);
/// How often the writer asks for a line about the log itself.
pub const NOTE_INTERVAL: Duration = Duration::from_secs(1);

enum Item {
    Line(Vec<u8>),
    /// Answer when everything before this has been written.
    Flush(SyncSender<()>),
}

/// A bounded queue of lines, each given by one `write`. A line that finds it full is dropped and counted.
#[derive(Clone, Debug)]
pub struct LineQueue {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl LineQueue {
    /// Starts a thread that writes to `out`. `dropped_line` makes the line that says how many lines found the queue full. `note` is
    /// asked once a second, and at the end, for a line about the log itself.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        out: impl Write + Send + 'static,
        dropped_line: impl Fn(u64) -> String + Send + 'static,
        note: impl Fn() -> Option<String> + Send + 'static,
    ) -> io::Result<(Self, LogGuard)> {
        let (items, queue) = sync_channel(WRITER_QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&queue, out, &counter, dropped_line, note))?;
        Ok((Self { items: items.clone(), dropped }, LogGuard { items }))
    }
}

impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(
    queue: &Receiver<Item>,
    mut out: impl Write,
    dropped: &AtomicU64,
    dropped_line: impl Fn(u64) -> String,
    note: impl Fn() -> Option<String>,
) {
    let mut noted = Instant::now();
    let mut is_quiet = false;
    loop {
        // While no line comes there is nothing to note: the thread then sleeps until the next one.
        let item = if is_quiet {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(NOTE_INTERVAL)
        };
        let timed_out = matches!(item, Err(RecvTimeoutError::Timeout));
        let last_chance = matches!(item, Ok(Item::Flush(_)) | Err(RecvTimeoutError::Disconnected));
        is_quiet = false;
        if last_chance || noted.elapsed() >= NOTE_INTERVAL {
            noted = Instant::now();
            let note = note();
            is_quiet = timed_out && note.is_none();
            if let Some(line) = note {
                let _ = out.write_all(line.as_bytes());
            }
        }
        // An error of the log itself cannot be logged.
        let _ = match item {
            Ok(Item::Line(line)) => out.write_all(&line),
            Ok(Item::Flush(done)) => out.flush().map(|()| drop(done)),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = out.write_all(dropped_line(count).as_bytes());
        }
    }
}

/// Waits, when dropped, until the lines logged so far are written, but no longer than a second.
#[must_use = "dropping the guard only flushes the log; keep it until the program ends"]
pub struct LogGuard {
    items: SyncSender<Item>,
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let deadline = Instant::now() + WRITER_FLUSH_TIMEOUT;
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(back)) = self.items.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = back;
            thread::sleep(FLUSH_PAUSE);
        }
        // Ends when the writer drops its half.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Writes into memory, one line for each permission.
    struct Gate {
        permissions: Receiver<()>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // A closed channel opens the gate for good.
            let _ = self.permissions.recv_timeout(LIMIT);
            self.text.lock().unwrap().push_str(std::str::from_utf8(line).unwrap());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (LineQueue, LogGuard, SyncSender<()>, Arc<Mutex<String>>) {
        let (open, permissions) = sync_channel(1);
        let text = Arc::new(Mutex::new(String::new()));
        let gate = Gate { permissions, text: Arc::clone(&text) };
        let dropped_line = |count| format!("dropped {count} lines\n");
        let (queue, guard) = LineQueue::start(gate, dropped_line, || Some("note\n".to_owned())).unwrap();
        (queue, guard, open, text)
    }

    #[test]
    fn dropping_the_guard_waits_for_every_line() {
        let (mut queue, guard, open, text) = gated();
        for number in 0..100 {
            writeln!(queue, "{number}").unwrap();
        }
        drop(open);
        drop(guard);
        let written = text.lock().unwrap();
        assert!(written.starts_with("0\n") && written.ends_with("99\nnote\n"), "{written}");
    }

    #[test]
    fn a_stuck_reader_costs_lines_not_time() {
        let (mut queue, guard, open, text) = gated();
        // One more line than the queue holds may be in the hands of the writer.
        let excess = 10;
        for _ in 0..=WRITER_QUEUE + excess {
            queue.write_all(b"x\n").unwrap();
        }
        drop(open);
        drop(guard);
        let text = text.lock().unwrap();
        let (written, dropped) = (text.matches("x\n").count(), text.lines().find(|line| line.starts_with("dropped")));
        assert_eq!(dropped, Some(format!("dropped {} lines", WRITER_QUEUE + excess + 1 - written).as_str()));
        assert!(written <= WRITER_QUEUE + 1, "{written}");
    }
}
