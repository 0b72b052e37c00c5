//! What one replica tells the others: "a job waits", "this job has changed".

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::store::queue::Effect;

/// Bytes of one notification; the server allows 8000.
const MAX_BYTES: usize = 7000;

/// Hints that may wait to be sent.
const MAX_WAITING: usize = 16_384;

/// What happened, the endpoint, and the job or worker.
pub(super) type Hint = (Kind, String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) enum Kind {
    /// Jobs wait.
    Q,
    /// A job has changed.
    J,
    /// A stop signal waits for a worker.
    S,
    /// A worker asked to be replaced.
    R,
}

/// The way to the other replicas.
pub(super) struct Notifier {
    sender: mpsc::Sender<Hint>,
    /// Whether there are others.
    has_others: AtomicBool,
}

impl Notifier {
    pub(super) fn new() -> (Self, mpsc::Receiver<Hint>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self { sender, has_others: AtomicBool::new(true) }, receiver)
    }

    pub(super) fn set_has_others(&self, has_others: bool) {
        self.has_others.store(has_others, Ordering::Relaxed);
    }

    /// Passes on what others may wait for.
    pub(super) fn tell(&self, endpoint: &str, effects: &[Effect]) {
        if !self.has_others.load(Ordering::Relaxed) {
            return;
        }
        let mut has_told_of_jobs = false;
        for effect in effects {
            let (kind, key) = match effect {
                // What a hint stands for may be many jobs.
                Effect::JobWaiting | Effect::DispatchResumed if std::mem::replace(&mut has_told_of_jobs, true) => {
                    continue;
                }
                Effect::JobWaiting | Effect::DispatchResumed => (Kind::Q, ""),
                Effect::JobChanged(id) => (Kind::J, &**id),
                Effect::StopWaiting(worker) => (Kind::S, &**worker),
                Effect::WorkerRefreshing(worker) => (Kind::R, &**worker),
                Effect::JobFinished(..)
                | Effect::WebhookDue { .. }
                | Effect::DuplicateWorker(_)
                | Effect::WorkerUnfit(_) => continue,
            };
            // A full channel loses hints, which costs those who wait a second.
            let _ = self.sender.try_send((kind, endpoint.to_owned(), key.to_owned()));
        }
    }
}

/// Each message begins with its sender, who ignores it.
pub(super) fn messages(replica: &str, hints: BTreeSet<Hint>) -> Vec<String> {
    let mut messages = Vec::new();
    let (mut some, mut bytes) = (Vec::new(), 0);
    for hint in hints {
        // Quotes, commas and brackets; ids are letters and the like.
        let size = hint.1.len() + hint.2.len() + 16;
        if bytes + size > MAX_BYTES && !some.is_empty() {
            messages.extend(serde_json::to_string(&(replica, std::mem::take(&mut some))));
            bytes = 0;
        }
        bytes += size;
        some.push(hint);
    }
    messages.extend(serde_json::to_string(&(replica, some)));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hints_fit_into_messages_of_bounded_length() {
        let hints: BTreeSet<_> = (0..2000).map(|n| (Kind::J, "endpoint".to_owned(), format!("{n:0>64}"))).collect();
        let messages = messages("replica", hints.clone());
        assert!(messages.len() > 10 && messages.iter().all(|message| message.len() < 8000));
        let read = messages.iter().flat_map(|message| serde_json::from_str::<(String, Vec<Hint>)>(message).unwrap().1);
        assert_eq!(read.collect::<BTreeSet<_>>(), hints);
    }
}
