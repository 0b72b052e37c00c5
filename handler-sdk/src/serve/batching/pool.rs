//! The jobs that wait for a batch, shared by the intake thread and the models.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::value::RawValue;

use super::budget::CostBudget;
use super::waiting::{Next, Waiting};
use crate::batch::BatchLimits;
use crate::running_job::RunningJob;

/// A job whose input was read.
#[derive(Debug)]
pub(crate) struct WaitingJob<I> {
    pub(crate) running: Arc<RunningJob>,
    pub(crate) fields: HashMap<String, Box<RawValue>>,
    pub(crate) input: I,
    pub(crate) cost: u64,
    pub(crate) since: Instant,
}

/// What a model does next.
#[derive(Debug)]
pub(crate) enum Task<I> {
    /// Run these jobs as one batch.
    Run(Vec<WaitingJob<I>>),
    /// Test the device, and report it for this slot.
    Probe(u32),
    /// The pool is closed and empty.
    End,
}

/// Waiting jobs, the cost budget, and probes.
#[derive(Debug)]
pub(crate) struct Pool<I> {
    limits: BatchLimits,
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
}

impl<I> Pool<I> {
    pub(crate) fn new(limits: BatchLimits, models: u32) -> Self {
        let budget = CostBudget::new(limits.max_cost());
        let state = State { waiting: Waiting::default(), budget, probes: Vec::new(), closed: false };
        Self { limits, models: models.max(1), state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn limits(&self) -> &BatchLimits {
        &self.limits
    }

    pub(crate) fn push(&self, key: String, job: WaitingJob<I>) {
        let (cost, since) = (job.cost, job.since);
        self.state.lock().waiting.push(key, cost, since, job);
        self.changed.notify_all();
    }

    /// Takes a job out; `None` when it is not waiting.
    pub(crate) fn remove(&self, running: &Arc<RunningJob>) -> Option<WaitingJob<I>> {
        self.state.lock().waiting.remove(|job| Arc::ptr_eq(&job.running, running))
    }

    pub(crate) fn probe(&self, slot: u32) {
        self.state.lock().probes.push(slot);
        self.changed.notify_all();
    }

    /// No more jobs will come; those that wait still run.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for the next task of a model.
    pub(crate) fn take(&self, model: u32) -> Task<I> {
        let mut state = self.state.lock();
        loop {
            if let Some(at) = state.probes.iter().position(|slot| slot % self.models == model) {
                return Task::Probe(state.probes.swap_remove(at));
            }
            // No job comes after the pool is closed, so none is waited for.
            let limits = if state.closed { self.limits.wait(Duration::ZERO) } else { self.limits };
            let budget = state.budget.now();
            match state.waiting.next(Instant::now(), &limits, budget) {
                Next::Run(items) => return Task::Run(items),
                Next::Wait(time) => {
                    self.changed.wait_for(&mut state, time);
                }
                Next::Idle if state.closed => return Task::End,
                Next::Idle => self.changed.wait(&mut state),
            }
        }
    }

    /// A batch of this cost ran out of memory.
    pub(crate) fn out_of_memory(&self, cost: u64) {
        self.state.lock().budget.shrink(cost);
    }

    /// A batch of this cost completed.
    pub(crate) fn completed(&self, cost: u64) {
        self.state.lock().budget.grow(cost);
    }
}
