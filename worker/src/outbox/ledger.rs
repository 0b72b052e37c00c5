//! How many bytes the outbox holds, and whether that is too many.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use runpod_worker_core::{DeliveryEvent, Event};

/// Bytes held, against a limit. Over the limit there is pressure; it ends when half of the limit is free again, so that the
/// worker does not start and stop taking jobs with every result.
pub(super) struct Ledger {
    limit: usize,
    held: Mutex<Held>,
    pressure: watch::Sender<bool>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    bytes: usize,
    /// What is held cannot be made safe, so that the worker must not take more, however little it is.
    blocked: bool,
    /// Over the limit, and not yet back to half of it.
    full: bool,
}

impl Ledger {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: Mutex::default(), pressure: watch::Sender::new(false) }
    }

    pub(super) fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    pub(super) fn add(&self, bytes: usize) {
        self.change(|held| held.bytes = held.bytes.saturating_add(bytes));
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.change(|held| held.bytes = held.bytes.saturating_sub(bytes));
    }

    /// Pressure whatever is held, for as long as this is set.
    pub(super) fn block(&self, blocked: bool) {
        self.change(|held| held.blocked = blocked);
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        held.full = held.bytes > if held.full { self.limit / 2 } else { self.limit };
        let now = held.full || held.blocked;
        // Under the lock, so that the last word about pressure fits the last amount.
        self.pressure.send_if_modified(|pressed| std::mem::replace(pressed, now) != now);
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.pressure.subscribe()
    }
}

/// Tells the dispatcher about each change of pressure. Ends with the ledger, or when nobody listens.
pub(super) async fn announce(mut pressure: watch::Receiver<bool>, events: mpsc::Sender<Event>) {
    let mut told = false;
    while pressure.changed().await.is_ok() {
        let pressed = *pressure.borrow_and_update();
        if pressed == told {
            continue;
        }
        told = pressed;
        if events.send(Event::Delivery(DeliveryEvent::Pressure(pressed))).await.is_err() {
            return;
        }
    }
}
