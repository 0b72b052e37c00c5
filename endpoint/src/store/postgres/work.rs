//! An operation on one endpoint, as it waits for its unit of work.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::store::batch::BatchId;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::payload::Filed;
use crate::store::queue::Queue;
use crate::store::request::{Digest, JobId};
use crate::store::views::Overdue;

/// The rows that an operation decides on. They are locked before it runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Need {
    /// Jobs by their ids. Workers that hold them are locked too.
    pub(super) jobs: Vec<JobId>,
    /// The worker that it is about.
    pub(super) worker: Option<Arc<str>>,
    /// All jobs that this worker holds.
    pub(super) held: bool,
    /// How many jobs it may take from the queue.
    pub(super) take: usize,
    /// Jobs that have waited for too long.
    pub(super) overdue: Option<Overdue>,
    /// How many waiting jobs it may cancel.
    pub(super) purge: usize,
    /// Every job that some worker holds.
    pub(super) running: bool,
    /// How many new numbers it may give.
    pub(super) numbers: usize,
    /// The priorities and shares of new jobs.
    pub(super) shares: Vec<(bool, Option<Arc<str>>)>,
    /// Jobs by the keys of their submissions.
    pub(super) keys: Vec<Digest>,
    /// The batch that it is about.
    pub(super) batch: Option<BatchId>,
    /// All jobs of this batch.
    pub(super) whole_batch: bool,
    /// What counts against the bounds of the endpoint.
    pub(super) bounds: bool,
    /// The bounds on batches too.
    pub(super) batch_bounds: bool,
    /// The stream items of its jobs.
    pub(super) items: bool,
    /// A look at all workers.
    pub(super) all_workers: bool,
    /// It may wait a moment for others to share a unit with.
    pub(super) may_be_delayed: bool,
}

impl Need {
    pub(super) fn job(id: &str) -> Self {
        Self { jobs: vec![Arc::from(id)], ..Self::default() }
    }

    pub(super) fn worker(id: &str) -> Self {
        Self { worker: Some(Arc::from(id)), ..Self::default() }
    }
}

/// An operation of any kind.
pub(super) trait Work: Send {
    fn need(&self) -> &Need;
    /// Whether somebody still waits for it. What nobody waits for is not begun.
    fn is_wanted(&self) -> bool;
    /// Runs it. May be called again when the transaction did not come about.
    fn decide(&mut self, queue: &mut Queue<Filed>, now: Timestamp);
    /// The payloads in what was decided that are answered with their texts.
    fn payloads(&mut self) -> Vec<&mut Filed>;
    /// Passes on what was decided, once it lasts.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// An operation whose outcome somebody waits for. `Seen` is what is done with the outcome before it is passed on: when
/// the one who waited is gone, what was seen is dropped.
pub(super) struct Asked<T, U, Decide, Seen> {
    pub(super) need: Need,
    pub(super) decide: Decide,
    pub(super) decided: Option<T>,
    /// The payloads in the outcome that are answered with their texts.
    pub(super) payloads: fn(&mut T) -> Vec<&mut Filed>,
    pub(super) seen: Seen,
    pub(super) reply: oneshot::Sender<Result<U, StoreError>>,
}

impl<T, U, Decide, Seen> Work for Asked<T, U, Decide, Seen>
where
    T: Send,
    U: Send,
    Decide: Fn(&mut Queue<Filed>, Timestamp) -> T + Send,
    Seen: FnOnce(T) -> U + Send,
{
    fn need(&self) -> &Need {
        &self.need
    }

    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn decide(&mut self, queue: &mut Queue<Filed>, now: Timestamp) {
        self.decided = Some((self.decide)(queue, now));
    }

    fn payloads(&mut self) -> Vec<&mut Filed> {
        self.decided.as_mut().map(self.payloads).unwrap_or_default()
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { decided, seen, reply, .. } = *self;
        let outcome = match (outcome, decided) {
            (Ok(()), Some(decided)) => Ok(seen(decided)),
            (Ok(()), None) => Err(StoreError::Unavailable("the operation was not run".into())),
            (Err(error), _) => Err(error),
        };
        // Whoever asked may be gone; then what was seen is dropped with its consequences.
        let _ = reply.send(outcome);
    }
}

/// An operation that must be done although nobody waits for it.
pub(super) struct Noted<Decide> {
    pub(super) need: Need,
    pub(super) decide: Decide,
}

impl<Decide: Fn(&mut Queue<Filed>, Timestamp) + Send> Work for Noted<Decide> {
    fn need(&self) -> &Need {
        &self.need
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn decide(&mut self, queue: &mut Queue<Filed>, now: Timestamp) {
        (self.decide)(queue, now);
    }

    fn payloads(&mut self) -> Vec<&mut Filed> {
        Vec::new()
    }

    fn answer(self: Box<Self>, _: Result<(), StoreError>) {}
}
