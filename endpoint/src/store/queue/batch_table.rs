//! The batches of an endpoint, and the indexes over them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::store::batch::{BatchCounts, BatchId, BatchState, BatchView};
use crate::store::clock::Timestamp;
use crate::store::counts::BatchRequests;
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

/// A batch as a database keeps it: with the counts of all its jobs, wherever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptBatch {
    pub(crate) record: BatchRecord,
    pub(crate) counts: BatchCounts,
}

impl KeptBatch {
    /// The batch as readers see it.
    pub(crate) fn view(&self) -> BatchView {
        view(&self.record, self.counts)
    }
}

fn view(record: &BatchRecord, counts: BatchCounts) -> BatchView {
    let BatchRecord { id, name, state, created, .. } = record;
    BatchView { id: Arc::clone(id), name: name.clone(), state: *state, counts, created: *created }
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) record: BatchRecord,
    /// The numbers of its jobs, as far as they are in this queue.
    pub(super) members: BTreeSet<u64>,
    /// All of its jobs.
    pub(super) counts: BatchCounts,
    /// Its life is over, and only its jobs are not deleted yet.
    pub(super) is_over: bool,
}

impl Batch {
    pub(super) fn is_active(&self) -> bool {
        self.record.state == BatchState::Draft || self.counts.unfinished() > 0
    }

    pub(super) fn view(&self) -> BatchView {
        view(&self.record, self.counts)
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

    /// The requests that wait for a worker, and those that run.
    pub(super) fn requests(&self) -> BatchRequests {
        let mut requests = BatchRequests::default();
        for batch in self.by_id.values().filter(|batch| batch.record.state != BatchState::Draft) {
            requests.waiting += batch.counts.waiting;
            requests.in_progress += batch.counts.in_progress;
        }
        requests
    }

    pub(super) fn insert(&mut self, record: BatchRecord) {
        let id = Arc::clone(&record.id);
        self.by_age.insert(record.number, Arc::clone(&id));
        self.deadlines.extend(record.expires.map(|at| (at, Arc::clone(&id))));
        let (members, counts) = (BTreeSet::new(), BatchCounts::default());
        self.by_id.insert(id, Batch { record, members, counts, is_over: false });
    }

    /// Puts a batch in as it was left. Of its jobs, those that are here follow.
    pub(super) fn load(&mut self, KeptBatch { record, counts }: KeptBatch) {
        let id = Arc::clone(&record.id);
        self.insert(record);
        self.jobs += counts.total();
        if let Some(batch) = self.by_id.get_mut(&id) {
            batch.counts = counts;
        }
    }

    /// Batches as they are to be kept, by their numbers.
    pub(super) fn kept(&self) -> impl Iterator<Item = (u64, KeptBatch)> {
        let kept = |batch: &Batch| KeptBatch { record: batch.record.clone(), counts: batch.counts };
        self.by_id.values().map(move |batch| (batch.record.number, kept(batch)))
    }

    pub(super) fn get(&self, id: &str) -> Result<&Batch, StoreError> {
        self.by_id.get(id).filter(|batch| !batch.is_over).ok_or(StoreError::BatchNotFound)
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
                batch.members.insert(number);
            }
            None => {
                batch.members.remove(&number);
            }
        }
        self.jobs = self.jobs + usize::from(now.is_some()) - usize::from(before.is_some());
    }
}
