//! What a durable store must write down after each operation.

use std::sync::Arc;

use super::{BatchRecord, Queue};
use crate::store::batch::BatchId;
use crate::store::job::{Job, Record};
use crate::store::limits::Limits;
use crate::store::payload::{Content, Part, Payload};
use crate::store::request::JobId;

/// Notes of what changed since the last [`Queue::take_changes`]. Switched off for a store that is in memory only.
#[derive(Debug, Default)]
pub(super) struct Journal {
    enabled: bool,
    /// Renewed leases are changes too: another process may look at them.
    renewals: bool,
    notes: Vec<Note>,
    /// Something of the endpoint itself has changed.
    endpoint_touched: bool,
}

#[derive(Debug)]
enum Note {
    Touched(JobId),
    StreamItem { job: u64, number: u64, item: Payload },
    StreamItemsGone { job: u64 },
    Gone { job: u64 },
    Batch(BatchId),
    BatchGone { batch: u64 },
}

impl Journal {
    fn note(&mut self, note: impl FnOnce() -> Note) {
        if self.enabled {
            self.notes.push(note());
        }
    }

    pub(super) fn touched(&mut self, id: &JobId) {
        let is_last = matches!(self.notes.last(), Some(Note::Touched(last)) if Arc::ptr_eq(last, id));
        if !is_last {
            self.note(|| Note::Touched(Arc::clone(id)));
        }
    }

    pub(super) fn endpoint_touched(&mut self) {
        self.endpoint_touched = self.enabled;
    }

    /// As [`touched`](Self::touched), for a lease that became longer.
    pub(super) fn renewed(&mut self, id: &JobId) {
        if self.renewals {
            self.touched(id);
        }
    }

    pub(super) fn note_renewals(&mut self) {
        self.renewals = true;
    }

    /// To be called before the item is added.
    pub(super) fn stream_item<P>(&mut self, job: &Job<P>, item: &Payload) {
        self.note(|| Note::StreamItem { job: job.record.number, number: job.stream.next(), item: Arc::clone(item) });
    }

    /// Read or dropped: every item so far.
    pub(super) fn stream_items_gone<P>(&mut self, job: &Job<P>) {
        if job.stream.next() > 0 {
            self.note(|| Note::StreamItemsGone { job: job.record.number });
        }
    }

    pub(super) fn batch_touched(&mut self, id: &BatchId) {
        let is_last = matches!(self.notes.last(), Some(Note::Batch(last)) if Arc::ptr_eq(last, id));
        if !is_last {
            self.note(|| Note::Batch(Arc::clone(id)));
        }
    }

    pub(super) fn batch_gone(&mut self, batch: u64) {
        self.note(|| Note::BatchGone { batch });
    }

    pub(super) fn gone<P>(&mut self, job: &Job<P>) {
        self.note(|| Note::Gone { job: job.record.number });
    }
}

/// A position in the sequence of all changes of a store. Everything up to it is on disk once the backing says so.
pub(crate) type Mark = u64;

/// Everything that one operation changed. To be written in one transaction.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) counters: Counters,
    pub(crate) list: Vec<Change>,
}

impl Changes {
    /// The numbers of the jobs that are changed.
    pub(crate) fn jobs(&self) -> Vec<u64> {
        let number = |change: &Change| match change {
            Change::Job { record, .. } => Some(record.number),
            Change::StreamItem { job, .. } | Change::StreamItemsGone { job } | Change::Gone { job } => Some(*job),
            Change::Batch(_) | Change::BatchGone { .. } => None,
        };
        self.list.iter().filter_map(number).collect()
    }
}

/// One change. Jobs are named by their number.
#[derive(Debug)]
pub(crate) enum Change {
    /// The job is now like this, with the length of each payload; and those of its payloads that are new.
    Job { record: Box<Record<usize>>, payloads: Vec<(Part, Payload)> },
    /// A stream item was added.
    StreamItem { job: u64, number: u64, item: Payload },
    /// All stream items so far were read or dropped.
    StreamItemsGone { job: u64 },
    /// The record was deleted.
    Gone { job: u64 },
    /// The batch is now like this.
    Batch(BatchRecord),
    /// The batch was deleted.
    BatchGone { batch: u64 },
}

/// What an endpoint has that outlives its jobs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// The last number given to a job or to a position.
    pub(crate) last_number: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    pub(crate) paused: bool,
}

impl<P: Content> Queue<P> {
    /// An empty queue that notes its changes for [`take_changes`](Self::take_changes).
    #[must_use]
    pub(crate) fn journaled(limits: Limits) -> Self {
        Self { journal: Journal { enabled: true, ..Journal::default() }, ..Self::new(limits) }
    }

    /// What changed since the last call, in order.
    pub(crate) fn take_changes(&mut self) -> Option<Changes> {
        let endpoint_touched = std::mem::take(&mut self.journal.endpoint_touched);
        if self.journal.notes.is_empty() && !endpoint_touched {
            return None;
        }
        let notes = std::mem::take(&mut self.journal.notes);
        let mut list = Vec::with_capacity(notes.len());
        for note in notes {
            list.push(match note {
                Note::Touched(id) => match self.jobs.get_mut(&id) {
                    Some(job) => {
                        let (record, payloads) = job.record.for_disk();
                        Change::Job { record: Box::new(record), payloads }
                    }
                    None => continue,
                },
                Note::StreamItem { job, number, item } => Change::StreamItem { job, number, item },
                Note::StreamItemsGone { job } => Change::StreamItemsGone { job },
                Note::Gone { job } => Change::Gone { job },
                Note::Batch(id) => match self.batches.record(&id) {
                    Some(record) => Change::Batch(record.clone()),
                    None => continue,
                },
                Note::BatchGone { batch } => Change::BatchGone { batch },
            });
        }
        Some(Changes { counters: self.counters(), list })
    }

    /// Notes the mark of the latest change of these jobs.
    pub(crate) fn mark(&mut self, jobs: &[u64], mark: Mark) {
        for id in jobs.iter().filter_map(|number| self.by_age.get(number)) {
            if let Some(job) = self.jobs.get_mut(id) {
                job.mark = mark;
            }
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            last_number: self.last_number,
            completed: self.completed,
            failed: self.failed,
            retried: self.retried,
            paused: self.paused,
        }
    }
}
