//! The results that wait for their turn to be posted, and whether they are many.
//!
//! A handler can be faster than the posts. Each job that is taken then makes the line longer: every result is posted later, all of them
//! are in memory, and in the end they are overdue and written to disk. So no job is taken while the line is long, unless jobs run for much longer than results wait.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The line. It is long when twice as many results wait as are posted at the same time, until it is as long as that again.
pub(super) struct Line {
    posts: usize,
    waiting: Mutex<usize>,
    is_long: watch::Sender<bool>,
}

/// A place in the line, until it is dropped.
pub(super) struct Place(Arc<Line>);

impl Line {
    pub(super) fn new(posts: usize) -> Self {
        Self { posts, waiting: Mutex::default(), is_long: watch::Sender::new(false) }
    }

    pub(super) fn enter(self: &Arc<Self>) -> Place {
        self.change(|waiting| waiting + 1);
        Place(Arc::clone(self))
    }

    pub(super) fn is_long(&self) -> watch::Receiver<bool> {
        self.is_long.subscribe()
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut waiting = self.waiting.lock();
        *waiting = change(*waiting);
        // Under the lock, so that the last state belongs to the last length.
        self.is_long.send_if_modified(|is_long| {
            let now = *waiting > if *is_long { self.posts } else { self.posts * 2 };
            std::mem::replace(is_long, now) != now
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(|waiting| waiting - 1);
    }
}
