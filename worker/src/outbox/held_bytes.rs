//! How many bytes the outbox holds, and whether that is too many.

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use runpod_worker_core::{DeliveryEvent, Event};

/// Bytes held, against a limit. Over the limit there is pressure; it ends when half of the limit is free again, so that the
/// worker does not start and stop taking jobs with every result.
pub(super) struct HeldBytes {
    limit: usize,
    held: Mutex<Held>,
    pressure: watch::Sender<bool>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    bytes: usize,
    /// The disk cannot be written, so the worker must take no more jobs, however little it holds.
    blocked: bool,
    /// Over the limit, and not yet back to half of it.
    full: bool,
}

impl HeldBytes {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default(), pressure: watch::Sender::new(false) }
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

    /// While this is set there is pressure, whatever is held.
    pub(super) fn set_blocked(&self, blocked: bool) {
        self.change(|held| held.blocked = blocked);
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock();
        change(&mut held);
        held.full = held.bytes > if held.full { self.limit / 2 } else { self.limit };
        let now = held.full || held.blocked;
        // Under the lock, so that the last state of the pressure belongs to the last amount.
        self.pressure.send_if_modified(|pressed| std::mem::replace(pressed, now) != now);
    }

    pub(super) fn pressure(&self) -> watch::Receiver<bool> {
        self.pressure.subscribe()
    }
}

/// Tells the dispatcher about each change of pressure. Ends with the outbox or the dispatcher.
pub(super) async fn report_pressure(mut pressure: watch::Receiver<bool>, events: mpsc::Sender<Event>) {
    let mut reported = false;
    while pressure.changed().await.is_ok() {
        let pressed = *pressure.borrow_and_update();
        if pressed == reported {
            continue;
        }
        reported = pressed;
        if events.send(Event::Delivery(DeliveryEvent::Pressure(pressed))).await.is_err() {
            return;
        }
    }
}
