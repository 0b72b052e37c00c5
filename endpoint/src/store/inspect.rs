//! What an observer sees: lists of jobs and workers, and the history of one job. Nothing in here changes a job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::job::{JobView, Payload, Status, Timestamp};

/// Changes of state kept for one job. The first ones stay; of later ones the newest replaces the last.
const MAX_TRANSITIONS: usize = 64;

/// Jobs looked at for one list.
pub const MAX_SEARCHED: usize = 20_000;

/// Stream items in one [`JobRecord`], and their bytes.
pub const MAX_ITEMS: usize = 500;
const MAX_ITEM_BYTES: usize = 4 << 20;

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub status: Option<Status>,
    /// Only jobs whose id contains this text.
    pub id: String,
    /// Longest list.
    pub limit: usize,
}

/// A line of the list of jobs.
#[derive(Debug, Clone)]
pub struct JobRow<P = Payload> {
    /// The job.
    pub view: JobView<P>,
    /// When it was submitted, or queued again by `/retry`.
    pub submitted: Timestamp,
}

/// A job entered a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state. A job that goes back to the queue is `IN_QUEUE` here, although clients keep seeing `IN_PROGRESS`.
    pub status: Status,
    /// When.
    pub at: Timestamp,
    /// The worker that took it.
    pub worker: Option<Arc<str>>,
}

/// How much of a job an observer has seen; the default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// [`JobRecord::revision`] of the last record.
    pub revision: u64,
    /// Number of the next stream item.
    pub items: u64,
}

/// Everything there is to see of one job.
#[derive(Debug, Clone)]
pub struct JobRecord<P = Payload> {
    /// The job as clients see it.
    pub view: JobView<P>,
    /// Grows with every change.
    pub revision: u64,
    /// What the handler gets.
    pub input: P,
    /// The states it went through, in order.
    pub history: Vec<Transition>,
    /// Number of the first one of `items`. Greater than what was asked for when a client has read items meanwhile.
    pub first_item: u64,
    /// Stream items that no client has read, from [`Seen::items`] on; bounded, ask again for the rest.
    pub items: Vec<Payload>,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Started, has not asked for a job yet.
    Initializing,
    /// Available.
    Idle,
    /// Holds a job.
    Running,
    /// Cannot be started for lack of room on this machine.
    Throttled,
    /// Reported a failed check, went silent, or keeps dying.
    Unhealthy,
    /// Asked to be replaced.
    Leaving,
}

/// A line of the list of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub id: Arc<str>,
    /// What it does.
    pub state: WorkerState,
    /// Number of jobs it holds.
    pub jobs: usize,
    /// Jobs that it has taken so far.
    pub taken: u64,
    /// Since its last request.
    pub silent_for: Duration,
}

/// The part of a job that only observers need.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) revision: u64,
    transitions: Vec<Transition>,
}

impl History {
    /// Notes a change, which may or may not be one of the state.
    pub(crate) fn note(&mut self, next: Transition) {
        self.revision += 1;
        if let Some(last) = self.transitions.last_mut().filter(|last| last.status == next.status) {
            // A job taken under the placeholder name becomes known as its worker's own.
            last.worker = next.worker;
            return;
        }
        if self.transitions.len() == MAX_TRANSITIONS {
            self.transitions.pop();
        }
        self.transitions.push(next);
    }

    pub(crate) fn transitions(&self) -> &[Transition] {
        &self.transitions
    }
}

/// The items from number `from` on, as many as fit into one record, and the number of the first one. `next` is the
/// number of the item that comes after those that are `kept`.
pub(crate) fn items(kept: &VecDeque<Payload>, next: u64, from: u64) -> (u64, Vec<Payload>) {
    let gone = next.saturating_sub(kept.len() as u64);
    let first = from.max(gone);
    let skipped = usize::try_from(first - gone).unwrap_or(usize::MAX);
    let mut bytes = 0;
    let fits = |item: &&Payload| {
        let before = bytes;
        bytes += item.get().len();
        before == 0 || bytes <= MAX_ITEM_BYTES
    };
    (first, kept.iter().skip(skipped).take(MAX_ITEMS).take_while(fits).cloned().collect())
}
