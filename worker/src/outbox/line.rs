//! The results that wait for their turn to be posted, and whether they are many.
//!
//! A handler can be faster than the posts. Each job that is taken then makes the line longer: every result is posted later, all of them
//! are in memory, and in the end they are overdue and written to disk. So no job is taken while the line is long.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::limits::LINE_BYTES;

/// The line. It is long when twice as many results wait as are posted at the same time, or [`LINE_BYTES`], until it is half as long.
pub(super) struct Line {
    most: usize,
    waiting: Mutex<Waiting>,
    is_long: watch::Sender<bool>,
}

#[derive(Default)]
struct Waiting {
    results: usize,
    bytes: usize,
}

/// The place of a result of this many bytes, until it is dropped.
pub(super) struct Place(Arc<Line>, usize);

impl Line {
    pub(super) fn new(posts: usize) -> Self {
        Self { most: posts * 2, waiting: Mutex::default(), is_long: watch::Sender::new(false) }
    }

    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Place {
        self.change(|waiting| {
            waiting.results += 1;
            waiting.bytes += bytes;
        });
        Place(Arc::clone(self), bytes)
    }

    pub(super) fn is_long(&self) -> watch::Receiver<bool> {
        self.is_long.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting.lock();
        change(&mut waiting);
        // Under the lock, so that the last state belongs to the last length.
        self.is_long.send_if_modified(|is_long| {
            let part = if *is_long { 2 } else { 1 };
            let now = waiting.results > self.most / part || waiting.bytes > LINE_BYTES / part;
            std::mem::replace(is_long, now) != now
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(|waiting| {
            waiting.results -= 1;
            waiting.bytes -= self.1;
        });
    }
}
