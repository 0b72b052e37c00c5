//! The batches of an endpoint, and the indexes over them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::store::batch::{BatchCounts, BatchId, BatchState, BatchView};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::status::Status;

/// What is kept of a batch, in memory and on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchRecord {
    pub(crate) id: BatchId,
    /// Order of creation, unique within the endpoint among jobs and batches.
    pub(crate) number: u64,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) state: BatchState,
    pub(crate) created: Timestamp,
    /// When it is deleted with all its requests. `None` while they run.
    pub(crate) expires: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) record: BatchRecord,
    /// The numbers of its jobs.
    pub(super) members: BTreeSet<u64>,
    pub(super) counts: BatchCounts,
}

impl Batch {
    pub(super) fn is_active(&self) -> bool {
        self.record.state == BatchState::Draft || self.counts.unfinished() > 0
    }

    pub(super) fn view(&self) -> BatchView {
        let BatchRecord { id, name, state, created, .. } = &self.record;
        BatchView { id: Arc::clone(id), name: name.clone(), state: *state, counts: self.counts, created: *created }
    }
}

/// The batches of an endpoint.
#[derive(Debug, Default)]
pub(super) struct BatchTable {
    pub(super) by_id: HashMap<BatchId, Batch>,
    pub(super) by_age: BTreeMap<u64, BatchId>,
    pub(super) deadlines: BTreeSet<(Timestamp, BatchId)>,
    /// Jobs in all of them.
    pub(super) jobs: usize,
}

impl BatchTable {
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn record(&self, id: &str) -> Option<&BatchRecord> {
        self.by_id.get(id).map(|batch| &batch.record)
    }

    pub(super) fn state_of(&self, id: &str) -> Option<BatchState> {
        self.record(id).map(|record| record.state)
    }

    /// Whether a job of a batch waits for a worker.
    pub(super) fn has_waiting(&self) -> bool {
        let waits = |batch: &Batch| {
            batch.record.state == BatchState::Finalized && batch.counts.unfinished() > batch.counts.in_progress
        };
        self.by_id.values().any(waits)
    }

    pub(super) fn insert(&mut self, record: BatchRecord) {
        let id = Arc::clone(&record.id);
        self.by_age.insert(record.number, Arc::clone(&id));
        self.deadlines.extend(record.expires.map(|at| (at, Arc::clone(&id))));
        self.by_id.insert(id, Batch { record, members: BTreeSet::new(), counts: BatchCounts::default() });
    }

    pub(super) fn get(&self, id: &str) -> Result<&Batch, StoreError> {
        self.by_id.get(id).ok_or(StoreError::BatchNotFound)
    }

    pub(super) fn set_expires(&mut self, id: &str, expires: Option<Timestamp>) {
        let Some(batch) = self.by_id.get_mut(id) else { return };
        let id = Arc::clone(&batch.record.id);
        if let Some(at) = std::mem::replace(&mut batch.record.expires, expires) {
            self.deadlines.remove(&(at, Arc::clone(&id)));
        }
        self.deadlines.extend(expires.map(|at| (at, id)));
    }

    /// Counts a job in its new state instead of its old one. `None`: it is not a member.
    pub(super) fn tally(&mut self, id: &str, number: u64, before: Option<Status>, now: Option<Status>) {
        let Some(batch) = self.by_id.get_mut(id) else { return };
        if let Some(before) = before {
            *batch.counts.of(before) -= 1;
        }
        match now {
            Some(now) => {
                *batch.counts.of(now) += 1;
                self.jobs += usize::from(batch.members.insert(number));
            }
            None => self.jobs -= usize::from(batch.members.remove(&number)),
        }
    }
}
