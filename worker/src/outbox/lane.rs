//! What waits to be posted for one job: chunks in order, the newest progress, one end.

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::held_bytes::HeldBytes;
use super::limits::ITEM_OVERHEAD;
use super::pending::PendingResult;
use super::spool::SpoolEntry;
use runpod_worker_core::{FinalResult, JobId, OutboxItem};

/// One streamed item.
pub(super) struct Chunk {
    pub(super) attempt: u32,
    pub(super) seq: u64,
    pub(super) payload: Bytes,
}

/// What is to be posted next.
pub(super) enum Step {
    Chunk(Chunk),
    Progress(Bytes),
    Final(FinalResult),
    /// An undelivered result of an earlier run.
    Recovered(Box<PendingResult>),
}

impl Step {
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Chunk(chunk) => cost(&chunk.payload),
            Self::Progress(payload) => cost(payload),
            Self::Final(result) => final_cost(result),
            Self::Recovered(pending) => pending.record.body.len() + ITEM_OVERHEAD,
        }
    }
}

fn cost(payload: &Bytes) -> usize {
    payload.len() + ITEM_OVERHEAD
}

fn final_cost(result: &FinalResult) -> usize {
    let payload = match &result.result {
        Ok(output) => output.len(),
        Err(report) => report.message.len() + report.traceback.len(),
    };
    payload + ITEM_OVERHEAD
}

/// The lane of one job. Filled by the dispatcher, emptied by one delivery task.
pub(super) struct Lane {
    pub(super) job: JobId,
    /// Nothing is to be posted any more.
    pub(super) discarded: CancellationToken,
    items: Mutex<Items>,
    filled: Notify,
    /// The entry of its result in the spool, once there is a result.
    entry: OnceLock<SpoolEntry>,
}

#[derive(Default)]
struct Items {
    chunks: VecDeque<Chunk>,
    progress: Option<Bytes>,
    last: Option<FinalResult>,
    recovered: Option<Box<PendingResult>>,
    /// The final has been given; nothing may follow.
    closed: bool,
    /// What [`HeldBytes`] has counted for this lane.
    held: usize,
}

impl Lane {
    pub(super) fn new(job: JobId) -> Self {
        Self {
            job,
            discarded: CancellationToken::new(),
            items: Mutex::default(),
            filled: Notify::new(),
            entry: OnceLock::new(),
        }
    }

    /// A lane with nothing in it but a result from an earlier run.
    pub(super) fn recovered(pending: PendingResult, held_bytes: &HeldBytes) -> Self {
        let lane = Self::new(pending.record.job.clone());
        if let Some(entry) = pending.entry.clone() {
            lane.set_entry(entry);
        }
        let held = pending.record.body.len() + ITEM_OVERHEAD;
        held_bytes.add(held);
        *lane.items.lock() = Items { recovered: Some(Box::new(pending)), closed: true, held, ..Items::default() };
        lane
    }

    /// Sets the spool entry of the result of this lane.
    pub(super) fn set_entry(&self, entry: SpoolEntry) {
        // A second entry is that of a substitute, which is closed before the lane ends.
        let _ = self.entry.set(entry);
    }

    /// The spool entry of the result of this lane.
    pub(super) fn entry(&self) -> Option<&SpoolEntry> {
        self.entry.get()
    }

    /// Puts something in. `false` means that it came too late and was dropped.
    pub(super) fn push(&self, item: OutboxItem, held_bytes: &HeldBytes) -> bool {
        let mut items = self.items.lock();
        let before = items.held;
        match item {
            OutboxItem::Discard => {
                self.discarded.cancel();
                return true;
            }
            _ if items.closed => return false,
            OutboxItem::Chunk { attempt, seq, payload } => {
                items.held += cost(&payload);
                items.chunks.push_back(Chunk { attempt, seq, payload });
            }
            OutboxItem::Progress(payload) => {
                items.held += cost(&payload);
                if let Some(old) = items.progress.replace(payload) {
                    items.held -= cost(&old);
                }
            }
            OutboxItem::Final(result) => {
                items.held += final_cost(&result);
                // The result says more than any progress.
                if let Some(old) = items.progress.take() {
                    items.held -= cost(&old);
                }
                items.last = Some(result);
                items.closed = true;
            }
        }
        // The count changes while the lane is locked, so that it never removes what it has not added yet.
        if items.held >= before {
            held_bytes.add(items.held - before);
        } else {
            held_bytes.remove(before - items.held);
        }
        drop(items);
        self.filled.notify_one();
        true
    }

    /// Waits for the next thing to post. Its bytes stay counted until [`Lane::release`].
    pub(super) async fn next(&self) -> Step {
        loop {
            if let Some(step) = self.take() {
                return step;
            }
            // A `push` between `take` and here has left its permit.
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Step> {
        let mut items = self.items.lock();
        if let Some(chunk) = items.chunks.pop_front() {
            return Some(Step::Chunk(chunk));
        }
        if let Some(progress) = items.progress.take() {
            return Some(Step::Progress(progress));
        }
        if let Some(pending) = items.recovered.take() {
            return Some(Step::Recovered(pending));
        }
        items.last.take().map(Step::Final)
    }

    /// An item of this cost has been delivered or given up.
    pub(super) fn release(&self, cost: usize, held_bytes: &HeldBytes) {
        let mut items = self.items.lock();
        let cost = cost.min(items.held);
        items.held -= cost;
        held_bytes.remove(cost);
    }

    /// The lane has ended, whatever is left in it.
    pub(super) fn release_all(&self, held_bytes: &HeldBytes) {
        let mut items = self.items.lock();
        items.closed = true;
        held_bytes.remove(std::mem::take(&mut items.held));
    }
}
