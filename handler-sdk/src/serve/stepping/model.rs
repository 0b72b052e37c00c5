//! The thread of one model: lets jobs join, advances all of them by a step, and lets those that have ended leave.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use runpod_handler_protocol::records::{BATCH_ITEMS, BATCH_WAIT_SECONDS};
use runpod_handler_protocol::{ErrorKind, ToSupervisor};

use super::meter::StepMeter;
use crate::error::HandlerError;
use crate::job::Job;
use crate::output::{Encoded, encode_output};
use crate::panics;
use crate::serve::exit::Exit;
use crate::serve::loading::{self, Loaded, SlotSetup};
use crate::serve::pooled;
use crate::serve::pooled::intake::Reader;
use crate::serve::pooled::pool::{Pool, Task, WaitingJob};
use crate::serve::pooled::waiting::Load;
use crate::serve::reply::{Reply, not_run};
use crate::step::{Running, StepHandler};

pub(super) type Waiting<H> = Vec<WaitingJob<<H as StepHandler>::Input>>;

/// A loaded model, the jobs that it runs, and what it works with.
pub(super) struct Model<'a, H: StepHandler> {
    slot: u32,
    pub(super) setup: &'a SlotSetup,
    pub(super) reader: &'a Reader<H::Input>,
    pub(super) pool: &'a Pool<H::Input>,
    pub(super) loaded: Loaded<H>,
    /// In the order in which they joined, but those that sit out the step are last.
    pub(super) running: Vec<Running<H>>,
    /// How many have joined so far.
    joined: u64,
    /// Jobs of a step that failed. Each group runs without any other job; the last one first.
    pub(super) suspects: Vec<Waiting<H>>,
    /// User code panicked: the model is built again once no job runs.
    pub(super) is_spoiled: bool,
    meter: StepMeter,
}

/// Runs jobs until the pool is closed and empty; returns why the process must exit otherwise.
pub(crate) fn run_model<H: StepHandler>(
    slot: u32,
    setup: &SlotSetup,
    reader: &Reader<H::Input>,
    pool: &Pool<H::Input>,
) -> Result<(), Exit> {
    let _guard = loading::prepare_thread(setup)?;
    let loaded = loading::load(slot, setup, H::load, H::warm_up)?;
    let (running, suspects) = (Vec::new(), Vec::new());
    let mut model = Model {
        slot,
        setup,
        reader,
        pool,
        loaded,
        running,
        joined: 0,
        suspects,
        is_spoiled: false,
        meter: StepMeter::new(Instant::now()),
    };
    loop {
        if model.is_spoiled && model.running.is_empty() {
            model = model.reload()?;
        }
        // Counted before anything is looked at, so that no change is missed.
        let changes = pool.changes();
        if !model.let_jobs_join() {
            break;
        }
        model.settle();
        model.step_or_wait(changes)?;
        model.settle();
        model.report_steps();
    }
    loading::discard(model.loaded.handler);
    Ok(())
}

impl<H: StepHandler> Model<'_, H> {
    /// Admits the jobs for which there is room. `false` when the pool is closed and empty, and no job runs.
    fn let_jobs_join(&mut self) -> bool {
        if self.is_spoiled || self.running.iter().any(|one| one.is_suspect) {
            return true;
        }
        if let Some(jobs) = self.suspects.pop() {
            self.admit(jobs, true);
            return true;
        }
        match self.pool.take(self.slot, load_of(&self.running)) {
            Task::Run(jobs, _) => self.admit(jobs, false),
            Task::Probe(slot) => loading::probe(slot, self.setup, &self.loaded.memory),
            Task::End => return false,
        }
        true
    }

    fn admit(&mut self, jobs: Waiting<H>, is_suspect: bool) {
        let mut jobs = jobs.into_iter();
        while let Some(job) = jobs.next() {
            let returned = self.admit_one(job, is_suspect);
            if returned.is_some() || self.is_spoiled {
                let left: Waiting<H> = returned.into_iter().chain(jobs).collect();
                return if is_suspect { self.suspects.push(left) } else { self.wait_again(left) };
            }
        }
    }

    /// Admits a job, or ends it. Returns it when it must wait for more memory.
    fn admit_one(&mut self, job: WaitingJob<H::Input>, is_suspect: bool) -> Option<WaitingJob<H::Input>> {
        let WaitingJob { running, fields, input, cost, payload, since, .. } = job;
        if let Some(stopped) = running.stopped() {
            Reply::failure(&running, not_run(stopped)).send(&self.setup.jobs, &self.setup.queue, None);
            return None;
        }
        if self.running.is_empty() {
            self.loaded.memory.begin(self.setup.models == 1);
        }
        // The worker must know who runs before user code can crash the process.
        let (id, attempt) = (running.id.clone(), running.attempt);
        let started = ToSupervisor::Started { job: id, attempt, model: Some(self.slot) };
        self.setup.queue.push(&started, Bytes::new());
        let job = Job::new(running, Arc::clone(&self.setup.queue), fields);
        job.record(BATCH_WAIT_SECONDS, since.elapsed().as_secs_f64());
        self.setup.queue.flush(job.remaining());
        #[cfg(feature = "tracing")]
        let _span = crate::events::job_span(job.id()).entered();
        let handler = &mut self.loaded.handler;
        let error = match panics::catch("the handler", || handler.admit(input, &job)) {
            Ok(Ok(sequence)) => {
                let number = self.joined;
                self.joined += 1;
                self.running.push(Running::new(sequence, job, cost, payload, number, is_suspect));
                return None;
            }
            Ok(Err(error)) => error,
            Err(error) => {
                self.is_spoiled = true;
                self.reply(job, Err(error), true);
                return None;
            }
        };
        if error.apparent_kind() == Some(ErrorKind::Oom) {
            self.pool.out_of_memory(load_of(&self.running).cost.saturating_add(cost));
            self.loaded.memory.empty_cache();
            if !self.running.is_empty() {
                return self.again_or_fail(job, payload, &error, false);
            }
        }
        self.reply(job, Err(error), false);
        None
    }

    /// Ends the jobs that have a result, and those that must stop.
    pub(super) fn settle(&mut self) {
        let cost = load_of(&self.running).cost;
        for one in &mut self.running {
            if let (None, Err(stopped)) = (&one.end, one.job.stop_point()) {
                let message = format!("{stopped} (steps taken: {})", one.steps);
                one.end = Some(Err(HandlerError::new(stopped.kind(), message)));
            }
        }
        let ended: Vec<Running<H>> = self.running.extract_if(.., |one| one.end.is_some()).collect();
        for Running { sequence, job, steps, company, end, .. } in ended {
            loading::discard(sequence);
            if steps > 0 {
                job.record(BATCH_ITEMS, company as f64 / steps as f64);
            }
            let Some(end) = end else { continue };
            if end.is_ok() {
                self.pool.completed(cost);
            }
            let result = end.and_then(|output| panics::catch("the handler", || encode_output(&job, &output))?);
            self.reply(job, result, false);
        }
        let is_stopped = |job: &mut WaitingJob<H::Input>| job.running.stopped().is_some();
        let stopped = self.suspects.iter_mut().flat_map(|jobs| jobs.extract_if(.., is_stopped));
        for job in stopped.collect::<Waiting<H>>() {
            self.drop_stopped(&job);
        }
        self.suspects.retain(|jobs| !jobs.is_empty());
    }

    /// Advances the jobs that can take a step. When there is none, waits until that may have changed.
    fn step_or_wait(&mut self, changes: u64) -> Result<(), Exit> {
        let ready = self.line_up();
        if ready == 0 {
            if let Some(deadline) = self.running.iter().map(|one| one.job.deadline()).min() {
                self.pool.wait_for_change(changes, deadline);
            }
            return Ok(());
        }
        let (handler, steppers) = (&mut self.loaded.handler, &mut self.running[..ready]);
        #[cfg(feature = "tracing")]
        let _span = match &*steppers {
            [one] => Some(crate::events::job_span(one.job.id()).entered()),
            _ => None,
        };
        let began = Instant::now();
        match panics::catch("the handler", || handler.step(steppers)) {
            Ok(Ok(())) => {
                self.meter.stepped(began, ready);
                for one in &mut self.running[..ready] {
                    one.steps += 1;
                    one.company += ready as u64;
                    if one.job.has_streamed() {
                        // It will not run again.
                        one.payload = Bytes::new();
                    }
                }
                Ok(())
            }
            Ok(Err(error)) => self.step_failed(ready, &error, false),
            Err(error) => self.step_failed(ready, &error, true),
        }
    }

    fn report_steps(&mut self) {
        if self.setup.batch_reports {
            let (cost, is_idle) = (load_of(&self.running).cost, self.running.is_empty());
            let report = self.meter.take(Instant::now(), self.slot, cost, is_idle, || self.pool.limits_now());
            if let Some(report) = report {
                self.setup.queue.push(&ToSupervisor::Steps(report), Bytes::new());
            }
        }
    }

    /// Sorts the jobs that take the next step to the front, and returns their number. A job sits out while too many of its chunks
    /// are unacknowledged, and while suspects run without the others.
    fn line_up(&mut self) -> usize {
        let suspects_only = self.running.iter().any(|one| one.is_suspect);
        for one in &mut self.running {
            one.sits_out = suspects_only && !one.is_suspect || !one.job.running().has_room();
        }
        self.running.sort_by_key(|one| (one.sits_out, one.number));
        self.running.partition_point(|one| !one.sits_out)
    }

    pub(super) fn reply(&self, job: Job<H::Chunk>, result: Result<Encoded, HandlerError>, panicked: bool) {
        pooled::reply(self.setup, &self.loaded.memory, job, result, panicked);
    }

    /// Builds the model again after a panic. Jobs keep coming meanwhile, and wait.
    fn reload(self) -> Result<Self, Exit> {
        loading::discard(self.loaded.handler);
        let loaded = loading::reload(self.slot, self.setup, H::load, H::warm_up)?;
        Ok(Self { loaded, is_spoiled: false, ..self })
    }
}

pub(super) fn load_of<H: StepHandler>(running: &[Running<H>]) -> Load {
    let cost = running.iter().fold(0, |cost: u64, one| cost.saturating_add(one.cost));
    Load { items: running.len(), cost }
}
