//! One endpoint as this replica knows it: who waits here, and the operations that wait for their unit of work.
//!
//! Each lane runs one unit at a time. While all lanes are busy, operations collect, and the next free lane takes all of them into one
//! transaction: so many requests share one sync, as they do in the file. Heartbeats, and the ends of polls, may be delayed: they wait up to
//! 100 ms for a unit that others start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::floor::Floor;
use super::work::Work;
use crate::store::counts::Totals;
use crate::store::limits::Limits;
use crate::store::wakers::Wakers;

/// Units that run at the same time for one endpoint. Few, so that many operations share the cost of one; more than one, because a large
/// payload or a lock of somebody else holds one up.
const LANES: i16 = 3;

/// Operations in one unit. More would make the first of them wait for too long.
const MAX_BATCH: usize = 64;

/// Operations that may wait.
const MAX_WAITING: usize = 32_768;

/// How long operations that may be delayed wait for others.
pub(super) const DELAY: Duration = Duration::from_millis(100);

/// One endpoint.
pub(super) struct Local {
    pub(super) name: Arc<str>,
    pub(super) limits: Limits,
    pub(super) wakers: Wakers,
    /// What this replica has counted.
    pub(super) totals: Mutex<Totals>,
    /// Polls for jobs that wait here.
    pub(super) waiting_takes: AtomicUsize,
    /// Where looks for jobs begin.
    pub(super) floor: Mutex<Floor>,
    lanes: Mutex<Lanes>,
}

struct Lanes {
    waiting: VecDeque<Box<dyn Work>>,
    free: Vec<i16>,
    /// Somebody will start one when the delay is over.
    has_timer: bool,
}

/// What is to be done for an operation that was filed.
pub(super) enum Start {
    /// Nothing: others will take it with them.
    No,
    /// This lane.
    Lane(i16),
    /// A lane, when the delay is over.
    Delayed,
}

impl Local {
    pub(super) fn new(name: &str, limits: Limits, wakers: Wakers) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::from(name),
            limits,
            wakers,
            totals: Mutex::default(),
            waiting_takes: AtomicUsize::new(0),
            floor: Mutex::default(),
            lanes: Mutex::new(Lanes { waiting: VecDeque::new(), free: (0..LANES).collect(), has_timer: false }),
        })
    }

    /// Files an operation. `Err` when too many wait.
    pub(super) fn file(&self, work: Box<dyn Work>) -> Result<Start, Box<dyn Work>> {
        let mut lanes = self.lanes.lock();
        if lanes.waiting.len() >= MAX_WAITING {
            return Err(work);
        }
        let may_be_delayed = work.need().may_be_delayed;
        lanes.waiting.push_back(work);
        Ok(match may_be_delayed {
            true if lanes.has_timer => Start::No,
            true => {
                lanes.has_timer = true;
                Start::Delayed
            }
            false => lanes.free.pop().map_or(Start::No, Start::Lane),
        })
    }

    /// The delay is over: the lane that is to be started, if one is free and operations wait.
    pub(super) fn end_delay(&self) -> Option<i16> {
        let mut lanes = self.lanes.lock();
        lanes.has_timer = false;
        if lanes.waiting.is_empty() { None } else { lanes.free.pop() }
    }

    /// The operations of the lane's next unit; `None` when there are none, and then the lane is free.
    pub(super) fn next_unit(&self, lane: i16) -> Option<Vec<Box<dyn Work>>> {
        let mut lanes = self.lanes.lock();
        if lanes.waiting.is_empty() {
            lanes.free.push(lane);
            return None;
        }
        let some = lanes.waiting.len().min(MAX_BATCH);
        Some(lanes.waiting.drain(..some).collect())
    }

    /// The guard of a lane that works.
    pub(super) fn occupy(&self, lane: i16) -> Occupied<'_> {
        Occupied { local: self, lane }
    }

    /// Notes a poll for jobs that waits here, for as long as the guard lives.
    pub(super) fn wait_for_jobs(&self) -> Waiting<'_> {
        self.waiting_takes.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting_takes)
    }
}

/// A lane that works. It frees itself when nothing is left to do; this frees it when a unit panics.
pub(super) struct Occupied<'a> {
    local: &'a Local,
    lane: i16,
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.local.lanes.lock().free.push(self.lane);
        }
    }
}

/// A poll that waits.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
