//! What waits to be posted for one job: chunks in order, the newest progress, one end.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::keeper::Parcel;
use super::ledger::Ledger;
use super::ticket::Ticket;
use runpod_worker_core::{FinalResult, JobId, OutboxItem};

/// Counted for each item on top of its payload, so that very many small items are seen too.
const ITEM_OVERHEAD: usize = 128;

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
    /// A result that an earlier run has left in the spool.
    Recovered(Box<Parcel>),
}

impl Step {
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Chunk(chunk) => cost(&chunk.payload),
            Self::Progress(payload) => cost(payload),
            Self::Final(result) => final_cost(result),
            Self::Recovered(parcel) => cost(&parcel.record.body),
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
    /// Where its result lies on disk, once it was to be written.
    ticket: OnceLock<Ticket>,
}

#[derive(Default)]
struct Items {
    chunks: VecDeque<Chunk>,
    progress: Option<Bytes>,
    last: Option<FinalResult>,
    recovered: Option<Box<Parcel>>,
    /// The final has been given; nothing may follow.
    closed: bool,
    /// What the ledger has counted for this lane.
    held: usize,
}

impl Lane {
    pub(super) fn new(job: JobId) -> Self {
        Self {
            job,
            discarded: CancellationToken::new(),
            items: Mutex::default(),
            filled: Notify::new(),
            ticket: OnceLock::new(),
        }
    }

    /// A lane with nothing in it but a result from an earlier run.
    pub(super) fn recovered(parcel: Parcel, ledger: &Ledger) -> Self {
        let lane = Self::new(parcel.record.job.clone());
        if let Some(ticket) = parcel.ticket.clone() {
            lane.holds(ticket);
        }
        let held = cost(&parcel.record.body);
        ledger.add(held);
        *lane.lock() = Items { recovered: Some(Box::new(parcel)), closed: true, held, ..Items::default() };
        lane
    }

    /// The result of this lane has this place on disk.
    pub(super) fn holds(&self, ticket: Ticket) {
        // A second place is that of a substitute, which is settled before the lane ends.
        let _ = self.ticket.set(ticket);
    }

    /// The place on disk of the result of this lane.
    pub(super) fn ticket(&self) -> Option<&Ticket> {
        self.ticket.get()
    }

    /// Puts something in. `false` means that it came too late and was dropped.
    pub(super) fn push(&self, item: OutboxItem, ledger: &Ledger) -> bool {
        let mut items = self.lock();
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
        // The ledger changes while the lane is locked, so that it never removes what it has not added yet.
        if items.held >= before {
            ledger.add(items.held - before);
        } else {
            ledger.remove(before - items.held);
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
            // A `push` between the look and the wait leaves its permit here.
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Step> {
        let mut items = self.lock();
        if let Some(chunk) = items.chunks.pop_front() {
            return Some(Step::Chunk(chunk));
        }
        if let Some(progress) = items.progress.take() {
            return Some(Step::Progress(progress));
        }
        if let Some(parcel) = items.recovered.take() {
            return Some(Step::Recovered(parcel));
        }
        items.last.take().map(Step::Final)
    }

    /// An item of this cost is done with.
    pub(super) fn release(&self, cost: usize, ledger: &Ledger) {
        let mut items = self.lock();
        let cost = cost.min(items.held);
        items.held -= cost;
        ledger.remove(cost);
    }

    /// The lane is done with, whatever is left in it.
    pub(super) fn release_all(&self, ledger: &Ledger) {
        let mut items = self.lock();
        items.closed = true;
        ledger.remove(std::mem::take(&mut items.held));
    }

    fn lock(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
