//! One slot: an OS thread that builds a model and runs jobs on it, one after another.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ToSupervisor};

use crate::encode::encode;
use crate::error::HandlerError;
use crate::handler::Handler;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::job::Job;
use crate::load_env::{LoadEnv, Shared};
use crate::panics;
use crate::running_job::{RunningJob, RunningJobs};
use crate::send_queue::SendQueue;
use crate::serve::fitness::Fitness;
use crate::serve::job_memory::JobMemory;
use crate::text::log;

/// What all slots of the process have in common.
#[derive(Clone, Debug)]
pub(crate) struct SlotSetup {
    pub(crate) slots: u32,
    pub(crate) worker_id: String,
    pub(crate) device: String,
    pub(crate) queue: Arc<SendQueue>,
    pub(crate) jobs: Arc<RunningJobs>,
    pub(crate) shared: Arc<Shared>,
    /// The outcome of the fitness checks; `None` when the worker did not ask for any.
    pub(crate) fitness: Option<Arc<Fitness>>,
}

/// What a slot does next.
#[derive(Debug)]
pub(crate) enum SlotOrder {
    Run(ReceivedJob),
    /// Compute one number on the device.
    Probe,
}

/// A job for a slot: its shared state, and the job object as the queue sent it.
#[derive(Debug)]
pub(crate) struct ReceivedJob {
    pub(crate) running: Arc<RunningJob>,
    pub(crate) payload: Bytes,
}

/// The model could not be built, or a fitness check failed. The reason was reported to the worker.
#[derive(Debug)]
pub(crate) struct LoadFailed;

/// Runs jobs until the sender of `orders` is dropped.
pub(crate) fn run_slot<H: Handler>(
    slot: u32,
    setup: &SlotSetup,
    orders: &Receiver<SlotOrder>,
) -> Result<(), LoadFailed> {
    if setup.fitness.as_ref().is_some_and(|fitness| !fitness.wait()) {
        return Err(LoadFailed);
    }
    #[cfg(feature = "torch")]
    let _no_grad = crate::torch::prepare_slot_thread(setup.slots);
    let (mut handler, mut memory) = load::<H>(slot, setup)?;
    while let Ok(order) = orders.recv() {
        match order {
            SlotOrder::Run(received) => {
                if run_job(&mut handler, received, setup, &memory) == After::Reload {
                    discard(handler);
                    (handler, memory) = load(slot, setup)?;
                }
            }
            SlotOrder::Probe => probe(slot, setup, &memory),
        }
    }
    discard(handler);
    Ok(())
}

fn load<H: Handler>(slot: u32, setup: &SlotSetup) -> Result<(H, JobMemory), LoadFailed> {
    let started = Instant::now();
    let env = LoadEnv {
        slot,
        slots: setup.slots,
        worker_id: setup.worker_id.clone(),
        requested_device: setup.device.clone(),
        device: OnceLock::new(),
        queue: Arc::clone(&setup.queue),
        shared: Arc::clone(&setup.shared),
    };
    let loaded = panics::catch("load", || {
        let mut handler = H::load(&env)?;
        let loaded = Instant::now();
        handler.warm_up()?;
        let warm_up_millis = millis(loaded.elapsed());
        Ok((handler, env.device_in_use()?.map(str::to_owned), warm_up_millis))
    });
    match loaded.and_then(|result| result) {
        Ok((handler, device, warm_up_millis)) => {
            let millis = millis(started.elapsed());
            let memory = JobMemory::of(device.as_deref());
            let device = device.unwrap_or_else(|| "cpu".to_owned());
            setup.queue.push(&ToSupervisor::Loaded { slot, device, millis, warm_up_millis }, Bytes::new());
            Ok((handler, memory))
        }
        Err(error) => {
            let report = error.into_report(ErrorKind::Load);
            log(format_args!("slot {slot} cannot load: {}", report.message));
            setup.queue.push_report(&ToSupervisor::LoadFailed { slot }, &report);
            Err(LoadFailed)
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn probe(slot: u32, setup: &SlotSetup, memory: &JobMemory) {
    let Err(error) = memory.probe() else {
        return setup.queue.push(&ToSupervisor::Probed { slot, ok: true }, Bytes::new());
    };
    log(format_args!("slot {slot}: the device no longer works: {error}"));
    let report = HandlerError::new(ErrorKind::DeviceLost, error).into_report(ErrorKind::DeviceLost);
    setup.queue.push_report(&ToSupervisor::Probed { slot, ok: false }, &report);
}

#[derive(Debug, PartialEq, Eq)]
enum After {
    Ready,
    Reload,
}

fn run_job<H: Handler>(handler: &mut H, received: ReceivedJob, setup: &SlotSetup, memory: &JobMemory) -> After {
    let ReceivedJob { running, payload } = received;
    let (job, attempt) = (running.id.clone(), running.attempt);
    memory.begin(setup.slots == 1);
    let (refresh, mut records, result) = match begin(&running, &setup.queue, &payload) {
        Ok(Envelope { input, fields }) => {
            // A job can be large: each form of it is dropped once the next one is built.
            drop(payload);
            let context = Job::new(Arc::clone(&running), Arc::clone(&setup.queue), fields);
            #[cfg(feature = "tracing")]
            let _span = crate::events::job_span(&job).entered();
            let result = panics::catch("the handler", || {
                let parsed = parse_input(input.as_deref())?;
                drop(input);
                let output = handler.run(parsed, &context)?;
                Ok(encode("output", &output)?)
            });
            // This drops the job's temporary directory, before the result is sent.
            (context.refresh_requested(), context.into_records(), result)
        }
        Err(error) => (false, BTreeMap::new(), Ok(Err(error))),
    };

    // From here on a cancel finds no job, and the final message is the last one about the job.
    setup.jobs.remove(&running);
    let (error, default, reloading) = match result {
        Ok(Ok(output)) => {
            memory.record(&mut records);
            setup.queue.push(&ToSupervisor::Done { job, attempt, refresh, records }, output);
            return After::Ready;
        }
        // The error of a job that was asked to stop can have any text: the kind follows from the reason to stop.
        Ok(Err(error)) => (error, running.stopped().map_or(ErrorKind::InferenceError, |stopped| stopped.kind()), false),
        Err(panic) => (panic, ErrorKind::InferenceError, true),
    };
    let failed = ToSupervisor::Failed { job, attempt, refresh, reloading };
    let kind_is_guessed = error.kind().is_none();
    let mut report = error.into_report(default);
    // Any text may quote a user's input, and a lost device costs the process.
    if kind_is_guessed && report.kind == ErrorKind::DeviceLost && memory.works() {
        report.kind = default;
    }
    memory.recover(&mut report);
    setup.queue.push_report(&failed, &report);
    if reloading { After::Reload } else { After::Ready }
}

/// Reports the job as started, and reads the job object. A job that was stopped while it waited is not started.
///
/// The report must reach the worker before user code can crash the process: the worker runs a job that was not started again,
/// without blaming it for the crash.
fn begin(running: &RunningJob, queue: &SendQueue, payload: &[u8]) -> Result<Envelope, HandlerError> {
    let started = ToSupervisor::Started { job: running.id.clone(), attempt: running.attempt };
    if running.stopped().is_none() {
        queue.push(&started, Bytes::new());
        queue.flush(running.deadline.saturating_duration_since(Instant::now()));
    }
    match running.stopped() {
        Some(stopped) => Err(HandlerError::new(stopped.kind(), format!("{stopped} (before it ran)"))),
        None => parse_envelope(payload),
    }
}

/// Drops a model. That runs user code, which is likely to panic after a CUDA error.
fn discard<H>(handler: H) {
    if let Err(error) = panics::catch("dropping the handler", || drop(handler)) {
        log(format_args!("{error}"));
    }
}
