//! Things that are to happen to one worker at a chosen moment.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Alarms of one worker that wait at once; the oldest makes room.
const MAX_PER_WORKER: usize = 1000;
/// Workers with alarms; beyond it all alarms are dropped.
const MAX_WORKERS: usize = 1000;

#[derive(Debug)]
pub(crate) struct Alarms<T> {
    by_worker: Mutex<HashMap<String, VecDeque<(Instant, T)>>>,
    changed: Notify,
}

impl<T> Default for Alarms<T> {
    fn default() -> Self {
        Self { by_worker: Mutex::default(), changed: Notify::new() }
    }
}

impl<T> Alarms<T> {
    pub(crate) fn set(&self, worker: &str, after: Duration, what: T) {
        let mut by_worker = self.by_worker.lock();
        if !by_worker.contains_key(worker) && by_worker.len() >= MAX_WORKERS {
            by_worker.clear();
        }
        let alarms = by_worker.entry(worker.to_owned()).or_default();
        if alarms.len() >= MAX_PER_WORKER {
            alarms.pop_front();
        }
        alarms.push_back((Instant::now() + after, what));
        drop(by_worker);
        self.changed.notify_waiters();
    }

    /// Drops the alarms of a worker, which were meant for an earlier process of it.
    pub(crate) fn forget(&self, worker: &str) {
        self.by_worker.lock().remove(worker);
    }

    /// Waits for the next alarm of this worker.
    pub(crate) async fn next(&self, worker: &str) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let earliest = match self.take_due(worker) {
                Ok(due) => return due,
                Err(earliest) => earliest,
            };
            match earliest {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// What is due, or when something will be.
    fn take_due(&self, worker: &str) -> Result<T, Option<Instant>> {
        let mut by_worker = self.by_worker.lock();
        let Some(alarms) = by_worker.get_mut(worker) else { return Err(None) };
        let Some((index, at)) = alarms.iter().map(|(at, _)| *at).enumerate().min_by_key(|(_, at)| *at) else {
            return Err(None);
        };
        let due = if at <= Instant::now() { alarms.remove(index) } else { None };
        if alarms.is_empty() {
            by_worker.remove(worker);
        }
        due.map(|(_, what)| what).ok_or(Some(at))
    }
}
