//! The jobs that wait for a model, shared by the intake thread and the models.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use runpod_handler_protocol::{ClosedBy, LimitsNow};
use serde_json::value::RawValue;

use super::budget::CostBudget;
use super::waiting::{Bounds, Load, Next, Waiting};
use crate::running_job::RunningJob;

/// A job whose input was read.
#[derive(Debug)]
pub(crate) struct WaitingJob<I> {
    pub(crate) running: Arc<RunningJob>,
    pub(crate) fields: HashMap<String, Box<RawValue>>,
    /// What the jobs that run together have in common.
    pub(crate) key: String,
    pub(crate) input: I,
    pub(crate) cost: u64,
    /// The job object, when it may be read again; otherwise empty.
    pub(crate) payload: Bytes,
    pub(crate) since: Instant,
}

/// What a model does next.
#[derive(Debug)]
pub(crate) enum Task<I> {
    /// Run these jobs: as one batch, or beside those that run already. None at all when there is no room for the oldest. No more
    /// run, for this reason.
    Run(Vec<WaitingJob<I>>, ClosedBy),
    /// Test the device, and report it for this slot.
    Probe(u32),
    /// The pool is closed and empty, and no job runs.
    End,
}

/// Waiting jobs, the cost budget, and probes.
#[derive(Debug)]
pub(crate) struct Pool<I> {
    bounds: Bounds,
    models: u32,
    state: Mutex<State<I>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<I> {
    waiting: Waiting<String, WaitingJob<I>>,
    budget: CostBudget,
    /// Slots whose device is to be tested.
    probes: Vec<u32>,
    closed: bool,
    /// Counts the changes, so that none is missed between a look at other state and the wait for a change.
    changes: u64,
}

impl<I> Pool<I> {
    pub(crate) fn new(bounds: Bounds, models: u32) -> Self {
        let budget = CostBudget::new(bounds.cost);
        let state = State { waiting: Waiting::default(), budget, probes: Vec::new(), closed: false, changes: 0 };
        Self { bounds, models: models.max(1), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State<I>) -> T) -> T {
        let mut state = self.state.lock();
        state.changes += 1;
        let result = change(&mut state);
        drop(state);
        self.changed.notify_all();
        result
    }

    pub(crate) fn push(&self, job: WaitingJob<I>) {
        self.change(|state| state.waiting.push(job.key.clone(), job.cost, job.since, job));
    }

    /// Returns jobs, oldest first, that were taken out and could not run. They keep their place before all others.
    pub(crate) fn put_back(&self, jobs: Vec<WaitingJob<I>>) {
        self.change(|state| {
            for job in jobs.into_iter().rev() {
                state.waiting.put_back(job.key.clone(), job.cost, job.since, job);
            }
        });
    }

    /// Takes a job out; `None` when it is not waiting.
    pub(crate) fn remove(&self, running: &Arc<RunningJob>) -> Option<WaitingJob<I>> {
        self.state.lock().waiting.remove(|job| Arc::ptr_eq(&job.running, running))
    }

    pub(crate) fn probe(&self, slot: u32) {
        self.change(|state| state.probes.push(slot));
    }

    /// Something has changed that a model may wait for.
    pub(crate) fn wake(&self) {
        self.change(|_| {});
    }

    /// No more jobs will come; those that wait still run.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Waits for the next task of a model. One that runs jobs, which are its `load`, does not wait.
    pub(crate) fn take(&self, model: u32, load: Load) -> Task<I> {
        let mut state = self.state.lock();
        loop {
            if let Some(at) = state.probes.iter().position(|slot| slot % self.models == model) {
                return Task::Probe(state.probes.swap_remove(at));
            }
            // No job comes after the pool is closed, so none is waited for.
            let bounds = if state.closed { Bounds { wait: Duration::ZERO, ..self.bounds } } else { self.bounds };
            let budget = state.budget.now();
            match state.waiting.next(Instant::now(), &bounds, budget, load) {
                Next::Run(items, closed_by) => return Task::Run(items, closed_by),
                _ if load.items > 0 => return Task::Run(Vec::new(), ClosedBy::Full),
                Next::Wait(time) => {
                    self.changed.wait_for(&mut state, time);
                }
                Next::Idle if state.closed => return Task::End,
                Next::Idle => self.changed.wait(&mut state),
            }
        }
    }

    /// The limits in force, as they are reported.
    pub(crate) fn limits_now(&self) -> LimitsNow {
        let limited = |cost: u64| (cost < u64::MAX).then_some(cost);
        let Bounds { cost, wait, .. } = self.bounds;
        LimitsNow {
            budget: limited(self.state.lock().budget.now()),
            max_cost: limited(cost),
            max_wait_ms: (!wait.is_zero()).then(|| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// How often the pool has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// Waits until the pool has changed more often than that, or `until` this time.
    pub(crate) fn wait_for_change(&self, changes: u64, until: Instant) {
        let mut state = self.state.lock();
        let unchanged = |state: &mut State<I>| state.changes == changes;
        self.changed.wait_while_for(&mut state, unchanged, until.saturating_duration_since(Instant::now()));
    }

    /// Jobs that ran together ran out of memory; this was their cost.
    pub(crate) fn out_of_memory(&self, cost: u64) {
        self.state.lock().budget.shrink(cost);
    }

    /// Jobs that ran together completed; this was their cost.
    pub(crate) fn completed(&self, cost: u64) {
        self.state.lock().budget.grow(cost);
    }
}
