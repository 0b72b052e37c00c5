//! The outbox: one ordered lane per job between the dispatcher and the queue, and a spool on disk for results that the queue
//! does not accept at once. No slot waits for the network, and no result that was written down is lost.

mod dead_letters;
mod deliver;
mod held_bytes;
mod lane;
pub(crate) mod limits;
mod line;
mod pending;
mod shared;
mod spool;
mod spool_handle;
mod stats;
mod verdict;

use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use runpod_worker_core::{DeliveryEvent, Event, JobId, OutboxItem};
use tokio::sync::{mpsc, watch};

use crate::base::Identity;
use crate::queue::ResultSink;

pub use self::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
pub use self::limits::OutboxLimits;
pub use self::spool::{
    DeadLetterReason, Filesystem, FoundFile, Origin, RealFilesystem, Record, RecordError, RetentionLimits, Spool,
    SpoolConfig, SpoolEntry, SpoolError, Undelivered,
};
pub use self::stats::{OutboxStats, SpoolStats};

use self::deliver::Deliverer;
use self::held_bytes::HeldBytes;
use self::lane::Lane;
use self::line::Line;
use self::pending::PendingResult;
use self::shared::Shared;
use self::spool_handle::SpoolHandle;
use self::stats::{Counters, count};

/// The dispatcher's end of the outbox. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
    start: Arc<dyn Fn(Arc<Lane>) + Send + Sync>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Puts something into the lane of a job. Never blocks; must be called inside the runtime. Each chunk ends with
    /// `DeliveryEvent::Chunk`, the final with `DeliveryEvent::Final`, unless the lane is discarded first.
    pub fn send(&self, job: JobId, item: OutboxItem) {
        let mut lanes = self.shared.lanes.lock();
        if matches!(item, OutboxItem::Discard) {
            // Out of the table at once: if the same job comes again, it gets a fresh lane.
            if let Some(lane) = lanes.remove(&job) {
                drop(lanes);
                lane.discarded.cancel();
            }
            return;
        }
        let (lane, new) = match lanes.entry(job) {
            Entry::Occupied(entry) => (Arc::clone(entry.get()), false),
            Entry::Vacant(entry) => {
                let lane = Arc::new(Lane::new(entry.key().clone()));
                (Arc::clone(entry.insert(lane)), true)
            }
        };
        drop(lanes);
        if !lane.push(item, &self.shared.held_bytes) {
            count(&self.shared.counters.late);
            tracing::debug!(job = %lane.job, "A message came after the final result of its job and is dropped.");
        }
        if new {
            (self.start)(lane);
        }
    }

    /// Delivers the undelivered results of an earlier run. Each ends with `DeliveryEvent::Final`.
    pub fn resume(&self, undelivered: Undelivered) {
        for (entry, record) in undelivered.results {
            let lane = Arc::new(Lane::recovered(PendingResult { record, entry: Some(entry) }, &self.shared.held_bytes));
            self.shared.lanes.lock().insert(lane.job.clone(), Arc::clone(&lane));
            (self.start)(lane);
        }
    }

    /// What it holds now, and what it has done since the worker started.
    pub fn stats(&self) -> OutboxStats {
        let Shared { held_bytes, counters, spool, .. } = &*self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutboxStats {
            lanes: self.shared.lanes.lock().len(),
            held_bytes: held_bytes.get(),
            dead_letters: read(&counters.dead_letters),
            lost_chunks: read(&counters.lost_chunks),
            retries: read(&counters.retries),
            overdue: read(&counters.overdue),
            late: read(&counters.late),
            unauthorized: counters.unauthorized.load(Ordering::Relaxed),
            spool: spool.as_ref().map(SpoolHandle::stats),
        }
    }
}

/// Starts an outbox that keeps results in memory only. Each job with something to post gets a task of its own, which tells
/// the dispatcher through `events`; so a full event channel holds up deliveries and never the dispatcher.
pub fn spawn<S: ResultSink>(
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    events: mpsc::Sender<Event>,
) -> Outbox {
    start(sink, identity, limits, events, None)
}

/// Starts an outbox with a spool. `always` writes each result before it is posted. What `undelivered` holds is counted here and
/// delivered by [`Outbox::resume`].
pub fn spawn_with_spool<S: ResultSink>(
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    events: mpsc::Sender<Event>,
    spool: Spool,
    always: bool,
    undelivered: &Undelivered,
) -> Outbox {
    start(sink, identity, limits, events, Some(SpoolHandle::new(spool, always, undelivered)))
}

fn start<S: ResultSink>(
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    events: mpsc::Sender<Event>,
    spool: Option<SpoolHandle>,
) -> Outbox {
    let shared = Arc::new(Shared {
        lanes: Mutex::default(),
        held_bytes: Arc::new(HeldBytes::new(limits.max_bytes)),
        line: Arc::new(Line::new(limits.max_posts)),
        counters: Counters::default(),
        spool,
    });
    tokio::spawn(report(shared.held_bytes.full(), events.clone(), DeliveryEvent::Full));
    tokio::spawn(report(shared.line.is_long(), events.clone(), DeliveryEvent::Behind));
    if let Some(spool) = &shared.spool {
        tokio::spawn(spool.retry_until_writable(Arc::downgrade(&shared.held_bytes)));
    }
    let deliverer = Arc::new(Deliverer::new(sink, identity, limits, Arc::clone(&shared)));
    let lane_shared = Arc::clone(&shared);
    let start = move |lane: Arc<Lane>| {
        let (deliverer, shared, events) = (Arc::clone(&deliverer), Arc::clone(&lane_shared), events.clone());
        tokio::spawn(async move {
            let ended = lane.discarded.run_until_cancelled(deliverer.drain_lane(&lane, &events)).await;
            // Before the event: a job that comes again afterwards gets a fresh lane.
            shared.close(&lane);
            if let Some(accepted) = ended {
                let job = lane.job.clone();
                // The dispatcher may have ended.
                let _ = events.send(Event::Delivery(DeliveryEvent::Final { job, accepted })).await;
            } else if let (Some(spool), Some(entry)) = (&shared.spool, lane.entry()) {
                spool.remove(entry.clone()).await;
            }
        });
    };
    Outbox { shared, start: Arc::new(start) }
}

/// Tells the dispatcher about each change of a state. Ends with the outbox or the dispatcher.
async fn report(mut state: watch::Receiver<bool>, events: mpsc::Sender<Event>, event: fn(bool) -> DeliveryEvent) {
    let mut reported = false;
    while state.changed().await.is_ok() {
        let now = *state.borrow_and_update();
        if now == reported {
            continue;
        }
        reported = now;
        if events.send(Event::Delivery(event(now))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
