//! The way of events from one incarnation of a handler process to the dispatcher.

use runpod_worker_core::{Event, Incarnation, ProcessEvent, ProcessId};
use tokio::sync::mpsc;

/// Sends the events of one incarnation.
#[derive(Clone, Debug)]
pub(super) struct Events {
    pub(super) id: ProcessId,
    pub(super) incarnation: Incarnation,
    pub(super) queue: mpsc::Sender<Event>,
}

impl Events {
    pub(super) async fn send(&self, event: ProcessEvent) {
        // The dispatcher has ended; the incarnation goes on until its process is reaped.
        let _ = self.queue.send(Event::Process { id: self.id, incarnation: self.incarnation, event }).await;
    }

    /// The process number, for logs.
    pub(super) fn process(&self) -> usize {
        self.id.0
    }
}
