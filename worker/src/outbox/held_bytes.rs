//! How many bytes the outbox holds, and whether that is too many.

use parking_lot::Mutex;
use tokio::sync::watch;

/// Bytes held, against a limit. Over the limit the outbox is full, until half of the limit is free again, so that the
/// worker does not start and stop taking jobs with every result.
pub(super) struct HeldBytes {
    limit: usize,
    held: Mutex<Held>,
    full: watch::Sender<bool>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    bytes: usize,
    /// The disk cannot be written, so the worker must take no more jobs, however little it holds.
    blocked: bool,
    /// Over the limit, and not yet back to half of it.
    over_limit: bool,
}

impl HeldBytes {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default(), full: watch::Sender::new(false) }
    }

    pub(super) fn get(&self) -> usize {
        self.held.lock().bytes
    }

    pub(super) fn add(&self, bytes: usize) {
        self.change(|held| held.bytes = held.bytes.saturating_add(bytes));
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.change(|held| held.bytes = held.bytes.saturating_sub(bytes));
    }

    /// While this is set the outbox is full, whatever is held.
    pub(super) fn set_blocked(&self, blocked: bool) {
        self.change(|held| held.blocked = blocked);
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock();
        change(&mut held);
        held.over_limit = held.bytes > if held.over_limit { self.limit / 2 } else { self.limit };
        let now = held.over_limit || held.blocked;
        // Under the lock, so that the last state belongs to the last amount.
        self.full.send_if_modified(|full| std::mem::replace(full, now) != now);
    }

    pub(super) fn full(&self) -> watch::Receiver<bool> {
        self.full.subscribe()
    }
}
