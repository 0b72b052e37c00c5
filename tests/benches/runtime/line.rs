//! The jobs of one program: how many there are to take, and how many were taken and finished.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Nothing that is waited for takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Jobs that were taken at the same time. The text of each is the id followed by `tail`.
pub(crate) struct Taken {
    pub(crate) ids: std::ops::Range<u64>,
    pub(crate) tail: Bytes,
}

/// A line of jobs that all have the same input.
#[derive(Default)]
pub(crate) struct Line {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: u64,
    tail: Bytes,
    taken: u64,
    done: u64,
    first_poll: Option<Instant>,
    last_done: Option<Instant>,
    /// The times that streamed items took, in milliseconds, while somebody wants to know.
    items: Option<Vec<f64>>,
}

impl Line {
    /// Every job is this from now on: what follows its id, without the braces around the whole.
    pub(crate) fn set_job(&self, fields: &str) {
        self.state.lock().tail = format!("\",{fields}}}").into();
    }

    /// This many jobs can be taken from now on.
    pub(crate) fn supply(&self, waiting: u64) {
        self.state.lock().waiting = waiting;
        self.changed.notify_waiters();
    }

    /// So many more jobs can be taken.
    pub(crate) fn add(&self, jobs: u64) {
        self.state.lock().waiting += jobs;
        self.changed.notify_waiters();
    }

    /// Every streamed item is a time of day in microseconds from now on. Forgets the items of before; returns how long they took.
    pub(crate) fn time_items(&self) -> Vec<f64> {
        self.state.lock().items.replace(Vec::new()).unwrap_or_default()
    }

    /// Whether the items are times.
    pub(crate) fn times_items(&self) -> bool {
        self.state.lock().items.is_some()
    }

    /// For the queue: an item has taken so many milliseconds.
    pub(crate) fn item(&self, millis: f64) {
        if let Some(items) = &mut self.state.lock().items {
            items.push(millis);
        }
    }

    /// Jobs that are finished.
    pub(crate) fn done(&self) -> u64 {
        self.state.lock().done
    }

    /// Waits until there is no job left, neither waiting nor taken.
    pub(crate) async fn drained(&self) -> Result<()> {
        let is_over = |state: &State| state.waiting == 0 && state.done >= state.taken;
        self.when("the jobs in the line to end", |state| is_over(state).then_some(())).await
    }

    /// Adds one job; returns the time until it is finished. The line must be drained.
    pub(crate) async fn run_one(&self) -> Result<Duration> {
        let wanted = self.done() + 1;
        let begun = Instant::now();
        self.supply(1);
        let ended = self.when("a job to end", |state| state.last_done.filter(|_| state.done >= wanted)).await?;
        Ok(ended.duration_since(begun))
    }

    /// Waits until all jobs are finished; returns when the last one was.
    pub(crate) async fn next_done(&self) -> Result<Instant> {
        let is_over = |state: &State| state.waiting == 0 && state.done >= state.taken;
        self.when("the jobs in the line to end", |state| state.last_done.filter(|_| is_over(state))).await
    }

    /// When the first job was asked for.
    pub(crate) async fn first_poll(&self) -> Result<Instant> {
        self.when("the first poll", |state| state.first_poll).await
    }

    /// Forgets that jobs were asked for, because another program does so next.
    pub(crate) fn forget_polls(&self) {
        self.state.lock().first_poll = None;
    }

    /// For the queue: takes up to `most` jobs, as soon as there is one.
    pub(crate) async fn take(&self, most: u64) -> Taken {
        self.state.lock().first_poll.get_or_insert_with(Instant::now);
        self.changed.notify_waiters();
        self.wait(|state| {
            let count = state.waiting.min(most);
            if count == 0 {
                return None;
            }
            let first = state.taken;
            state.waiting -= count;
            state.taken += count;
            Some(Taken { ids: first..first + count, tail: state.tail.clone() })
        })
        .await
    }

    /// For the queue: a job is finished.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock();
        state.done += 1;
        state.last_done = Some(Instant::now());
        // Waking somebody for each of many jobs would be work that the queue does not have to do.
        let is_over = state.done == state.taken;
        drop(state);
        if is_over {
            self.changed.notify_waiters();
        }
    }

    async fn when<T>(&self, what: &str, look: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        timeout(LIMIT, self.wait(look)).await.with_context(|| format!("gave up after {LIMIT:?} waiting for {what}"))
    }

    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Counts from here on, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state.lock()) {
                return found;
            }
            changed.await;
        }
    }
}
