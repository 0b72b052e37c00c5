//! The outbox: one ordered lane per job between the dispatcher and the queue, and a spool on disk for results that the queue
//! does not accept at once. No slot waits for the network, and no result that was written down is lost.

mod adoption;
mod dead_letters;
mod deliver;
mod filesystem;
mod keeper;
mod lane;
mod ledger;
mod lock;
mod record;
mod spool;
mod ticket;
mod verdict;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

pub use self::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use self::deliver::Courier;
pub use self::filesystem::{Filesystem, Found, RealFilesystem};
pub use self::keeper::SpoolStats;
use self::keeper::{Keeper, Parcel};
use self::lane::Lane;
use self::ledger::Ledger;
pub use self::record::{Origin, Record, RecordError};
pub use self::spool::{KeepLimits, Reason, Recovery, Spool, SpoolConfig, SpoolError};
pub use self::ticket::Ticket;
use crate::base::Identity;
use crate::queue::ResultSink;
use runpod_worker_core::{DeliveryEvent, Event, JobId, OutboxItem};

/// The bounds of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Above this many bytes of undelivered payload the worker takes no more jobs.
    pub max_bytes: usize,
    /// Posts in flight at the same time, over all jobs.
    pub max_posts: usize,
    /// A final result is tried for this long: no job lives longer.
    pub max_age: Duration,
    /// Chunks of a job are given up when none was accepted for this long, so that they cannot hold back the final result.
    pub chunk_age: Duration,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            max_bytes: 256 * 1024 * 1024,
            max_posts: 16,
            max_age: Duration::from_secs(24 * 3600),
            chunk_age: Duration::from_secs(60),
        }
    }
}

/// What the outbox holds and what it has been through, for health and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Jobs with something undelivered, or that may still send something.
    pub lanes: usize,
    /// Undelivered bytes.
    pub held_bytes: usize,
    /// Final results that the queue refused for good or that grew too old.
    pub dead_letters: u64,
    /// Chunks given up.
    pub lost_chunks: u64,
    /// Attempts after which another one was needed.
    pub retries: u64,
    /// Final results that were not accepted at once.
    pub overdue: u64,
    /// Messages that came after the final one of their job.
    pub late: u64,
    /// The last answer was 401 or 403: the key is wrong.
    pub unauthorized: bool,
    /// The disk spool; `None` when there is none.
    pub spool: Option<SpoolStats>,
}

#[derive(Default)]
struct Counters {
    dead_letters: AtomicU64,
    lost_chunks: AtomicU64,
    retries: AtomicU64,
    overdue: AtomicU64,
    late: AtomicU64,
    unauthorized: AtomicBool,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the dispatcher and the delivery tasks share.
struct Shared {
    lanes: Mutex<HashMap<JobId, Arc<Lane>>>,
    ledger: Ledger,
    counters: Counters,
    keeper: Option<Keeper>,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a lane that has ended.
    fn close(&self, lane: &Arc<Lane>) {
        lane.release_all(&self.ledger);
        if let Entry::Occupied(entry) = self.lanes().entry(lane.job.clone())
            && Arc::ptr_eq(entry.get(), lane)
        {
            entry.remove();
        }
    }
}

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
        let mut lanes = self.shared.lanes();
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
        if !lane.push(item, &self.shared.ledger) {
            count(&self.shared.counters.late);
            tracing::debug!(job = %lane.job, "a message came after the final result of its job and was dropped");
        }
        if new {
            (self.start)(lane);
        }
    }

    /// Delivers what an earlier run has left. Each ends with `DeliveryEvent::Final`.
    pub fn recover(&self, recovery: Recovery) {
        for (ticket, record) in recovery.results {
            let lane = Arc::new(Lane::recovered(Parcel { record, ticket: Some(ticket) }, &self.shared.ledger));
            self.shared.lanes().insert(lane.job.clone(), Arc::clone(&lane));
            (self.start)(lane);
        }
    }

    /// What it holds and what it has been through.
    pub fn stats(&self) -> OutboxStats {
        let Shared { ledger, counters, keeper, .. } = &*self.shared;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutboxStats {
            lanes: self.shared.lanes().len(),
            held_bytes: ledger.held(),
            dead_letters: read(&counters.dead_letters),
            lost_chunks: read(&counters.lost_chunks),
            retries: read(&counters.retries),
            overdue: read(&counters.overdue),
            late: read(&counters.late),
            unauthorized: counters.unauthorized.load(Ordering::Relaxed),
            spool: keeper.as_ref().map(Keeper::stats),
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

/// Starts an outbox with a spool. `always` writes each result before it is posted. What `recovery` holds is counted here and
/// delivered by [`Outbox::recover`].
pub fn spawn_with_spool<S: ResultSink>(
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    events: mpsc::Sender<Event>,
    spool: Spool,
    always: bool,
    recovery: &Recovery,
) -> Outbox {
    start(sink, identity, limits, events, Some(Keeper::new(spool, always, recovery)))
}

fn start<S: ResultSink>(
    sink: Arc<S>,
    identity: Identity,
    limits: OutboxLimits,
    events: mpsc::Sender<Event>,
    keeper: Option<Keeper>,
) -> Outbox {
    let shared = Arc::new(Shared {
        lanes: Mutex::default(),
        ledger: Ledger::new(limits.max_bytes),
        counters: Counters::default(),
        keeper,
    });
    tokio::spawn(ledger::announce(shared.ledger.watch(), events.clone()));
    if let Some(keeper) = &shared.keeper {
        tokio::spawn(keeper.mend(Arc::downgrade(&shared)));
    }
    let courier = Arc::new(Courier::new(sink, identity, limits, Arc::clone(&shared)));
    let lane_shared = Arc::clone(&shared);
    let start = move |lane: Arc<Lane>| {
        let (courier, shared, events) = (Arc::clone(&courier), Arc::clone(&lane_shared), events.clone());
        tokio::spawn(async move {
            let ended = lane.discarded.run_until_cancelled(courier.empty(&lane, &events)).await;
            // Before the event: a job that comes again afterwards gets a fresh lane.
            shared.close(&lane);
            if let Some(accepted) = ended {
                let job = lane.job.clone();
                // Nobody listens any more: the worker is gone.
                let _ = events.send(Event::Delivery(DeliveryEvent::Final { job, accepted })).await;
            } else if let (Some(keeper), Some(ticket)) = (&shared.keeper, lane.ticket()) {
                keeper.remove(ticket.clone()).await;
            }
        });
    };
    Outbox { shared, start: Arc::new(start) }
}

#[cfg(test)]
mod faulty;
#[cfg(test)]
mod spool_tests;
#[cfg(test)]
mod tests;
