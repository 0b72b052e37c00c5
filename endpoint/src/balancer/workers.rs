//! The workers of a load-balancing endpoint: who is there, who is ready, and who waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counts::{CLASSES, RequestFigures, RequestTotals};
use super::limits::PROBE_INTERVAL;
use super::probe::probe;
use super::table::{Backend, Choice, Pin, Readiness, Table};
use crate::store::{Load, WorkerEvent, WorkerState, WorkerView};

/// Why there is no worker for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoWorker {
    /// None had room in time.
    TimedOut,
    /// The one that was asked for does not exist.
    Gone,
}

/// A request that waits for a worker.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    /// The worker that is to be started for it.
    resumes: Option<String>,
}

/// The workers of one load-balancing endpoint.
#[derive(Debug)]
pub(crate) struct Balancer {
    table: Mutex<Table>,
    /// Requests that wait for a worker.
    waiting: Mutex<BTreeMap<u64, Waiter>>,
    totals: Mutex<RequestTotals>,
    /// A worker has room, or is gone.
    changed: Notify,
    numbers: std::sync::atomic::AtomicU64,
}

impl Balancer {
    /// No workers yet. Each answers `concurrency` requests at the same time.
    pub(crate) fn new(concurrency: usize) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table::new(concurrency)),
            waiting: Mutex::default(),
            totals: Mutex::default(),
            changed: Notify::new(),
            numbers: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Names all workers that can be started: requests may wait for one that does not run.
    pub(crate) fn name_workers(&self, ids: impl Iterator<Item = String>) {
        self.table.lock().ids = ids.map(Arc::from).collect();
    }

    /// The workers that do not run and are to be started because requests wait for them.
    pub(crate) fn resumed(&self) -> BTreeSet<Arc<str>> {
        let wanted: Vec<_> = self.waiting.lock().values().filter_map(|waiter| waiter.resumes.clone()).collect();
        self.table.lock().absent(wanted.into_iter())
    }

    /// Adds a worker, which gets requests once its probe answers 200. It is removed when the registration is dropped.
    pub(crate) fn register(self: &Arc<Self>, worker: Arc<str>, address: SocketAddr) -> Registration {
        self.table.lock().add(Arc::clone(&worker), address);
        let stop = CancellationToken::new();
        let (balancer, probed, stopped) = (Arc::clone(self), Arc::clone(&worker), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(balancer.probe(&probed, address)).await });
        Registration { balancer: Arc::clone(self), worker, address, _probe: stop.drop_guard() }
    }

    /// Asks the worker again and again whether it is ready.
    async fn probe(&self, worker: &str, address: SocketAddr) {
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let is_busy = || self.table.lock().workers.get(worker).is_some_and(|backend| backend.busy > 0);
            let readiness = probe(address, is_busy).await;
            let mut table = self.table.lock();
            let Some(backend) = table.workers.get_mut(worker).filter(|backend| backend.address == address) else {
                return;
            };
            let before = std::mem::replace(&mut backend.readiness, readiness);
            drop(table);
            if before != readiness {
                tracing::info!(worker, ?readiness, "The state of a worker has changed.");
                self.changed.notify_waiters();
            }
        }
    }

    /// The worker for a request; waits until one has room, or until `deadline`.
    pub(super) async fn acquire(self: &Arc<Self>, pin: &Pin, deadline: Instant) -> Result<Place, NoWorker> {
        let _waiting = self.wait(pin);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registers before the look at the table, so that a change in between is noticed.
            changed.as_mut().enable();
            match self.table.lock().choose(pin) {
                Choice::Worker(worker, address) => {
                    return Ok(Place { balancer: Arc::clone(self), worker, address });
                }
                Choice::Gone => return Err(NoWorker::Gone),
                Choice::Wait => {}
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(NoWorker::TimedOut);
            }
        }
    }

    /// Notes that a worker could not be reached: it gets no more requests until its probe succeeds.
    pub(super) fn unreachable(&self, place: &Place) {
        if let Some(backend) = self.table.lock().workers.get_mut(&place.worker) {
            backend.readiness = Readiness::Starting;
        }
    }

    /// As if its probe had just found this.
    #[cfg(test)]
    pub(super) fn set_readiness(&self, worker: &str, readiness: Readiness) {
        if let Some(backend) = self.table.lock().workers.get_mut(worker) {
            backend.readiness = readiness;
        }
    }

    fn wait(self: &Arc<Self>, pin: &Pin) -> Waiting {
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let resumes = match pin {
            Pin::Resume(id) => Some(id.clone()),
            Pin::Free | Pin::Preferred(_) | Pin::Strict(_) => None,
        };
        self.waiting.lock().insert(number, Waiter { since: Instant::now(), resumes });
        Waiting { balancer: Arc::clone(self), number }
    }

    /// Counts an answer that begins.
    pub(super) fn note_answer(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.totals.lock().answers[class] += 1;
    }

    /// Notes how long a request has waited for a worker.
    pub(super) fn note_wait(&self, time: Duration) {
        self.totals.lock().wait.observe(time);
    }

    /// Notes how long a request took in all.
    pub(super) fn note_duration(&self, time: Duration) {
        self.totals.lock().duration.observe(time);
    }

    /// What `/metrics` shows.
    pub(crate) fn figures(&self) -> RequestFigures {
        let in_progress = self.table.lock().workers.values().map(|backend| backend.busy).sum();
        RequestFigures { totals: *self.totals.lock(), waiting: self.waiting.lock().len(), in_progress }
    }

    /// What a scaler decides on: requests take the place of jobs.
    pub(crate) fn load(&self) -> Load {
        let waiting = self.waiting.lock();
        // A request that waits for one worker, which is started for it, is no reason for another one.
        let since = || waiting.values().filter(|waiter| waiter.resumes.is_none()).map(|waiter| waiter.since);
        let (count, oldest) = (since().count(), since().min().map(|since| since.elapsed()));
        drop(waiting);
        let table = self.table.lock();
        let view = |(id, backend): (&Arc<str>, &Backend)| WorkerView {
            id: Arc::clone(id),
            state: match backend.readiness {
                _ if backend.leaving => WorkerState::Leaving,
                _ if backend.busy > 0 => WorkerState::Running,
                Readiness::Draining => WorkerState::Leaving,
                Readiness::Ready | Readiness::Busy => WorkerState::Idle,
                Readiness::Starting => WorkerState::Initializing,
                Readiness::Unhealthy => WorkerState::Unhealthy,
            },
            jobs: backend.busy,
            taken: backend.served,
            silent_for: Duration::ZERO,
            has_duplicate: false,
        };
        let in_progress = table.workers.values().map(|backend| backend.busy).sum();
        let workers = table.workers.iter().map(view).collect();
        Load { waiting: count, oldest, in_progress, background: false, workers }
    }
}

/// A worker that is there.
pub(crate) struct Registration {
    balancer: Arc<Balancer>,
    worker: Arc<str>,
    address: SocketAddr,
    _probe: DropGuard,
}

impl Registration {
    /// What the worker does, for those who are told of workers.
    pub(crate) fn event(&self) -> WorkerEvent {
        match self.balancer.table.lock().workers.get(&self.worker) {
            None => WorkerEvent::Starting,
            Some(Backend { leaving, readiness, busy, .. }) => match readiness {
                Readiness::Ready | Readiness::Busy | Readiness::Draining => WorkerEvent::Serving(*busy),
                Readiness::Unhealthy if !leaving => WorkerEvent::Failing,
                // Its handler process is being replaced.
                _ if *busy > 0 || *leaving => WorkerEvent::Serving(*busy),
                Readiness::Starting | Readiness::Unhealthy => WorkerEvent::Starting,
            },
        }
    }

    /// The worker finishes its requests and gets no more.
    pub(crate) fn leave(&self) {
        if let Some(backend) = self.balancer.table.lock().workers.get_mut(&self.worker) {
            backend.leaving = true;
        }
        self.balancer.changed.notify_waiters();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.balancer.table.lock();
        if table.workers.get(&self.worker).is_some_and(|backend| backend.address == self.address) {
            table.workers.remove(&self.worker);
        }
        drop(table);
        self.balancer.changed.notify_waiters();
    }
}

/// A place for one request at a worker; given back when it is dropped.
pub(super) struct Place {
    balancer: Arc<Balancer>,
    pub(super) worker: Arc<str>,
    pub(super) address: SocketAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.balancer.table.lock().release(&self.worker, self.address);
        self.balancer.changed.notify_waiters();
    }
}

/// A request that waits for a worker.
struct Waiting {
    balancer: Arc<Balancer>,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.balancer.waiting.lock().remove(&self.number);
    }
}
