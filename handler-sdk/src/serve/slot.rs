//! One slot: an OS thread that builds a model and runs one job after another on it.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ToSupervisor};

use crate::checks::Fitness;
use crate::encode::encode;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::load_env::Shared;
use crate::outgoing::Outgoing;
use crate::running::{RunningJob, RunningJobs};
use crate::text::log;
use crate::usage::Memory;
use crate::{Handler, HandlerError, Job, LoadEnv, panics};

/// What every slot is given.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) slots: u32,
    pub(crate) worker_id: String,
    pub(crate) device: String,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) jobs: Arc<RunningJobs>,
    pub(crate) shared: Arc<Shared>,
    /// Checks that are under way or over; `None` when there are none.
    pub(crate) fitness: Option<Arc<Fitness>>,
}

/// What a slot does next.
#[derive(Debug)]
pub(crate) enum Order {
    Run(Assignment),
    /// Compute one number on the device.
    Probe,
}

/// A job for a slot: its shared part and the job object as the queue sent it.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) running: Arc<RunningJob>,
    pub(crate) payload: Bytes,
}

/// The model could not be built, or must not be; the supervisor has been told.
#[derive(Debug)]
pub(crate) struct LoadFailed;

/// Runs jobs until the other end of `orders` is dropped.
pub(crate) fn run_slot<H: Handler>(slot: u32, process: &Process, orders: &Receiver<Order>) -> Result<(), LoadFailed> {
    if process.fitness.as_ref().is_some_and(|fitness| !fitness.is_fit()) {
        return Err(LoadFailed);
    }
    #[cfg(feature = "torch")]
    let _no_grad = crate::torch::prepare_slot_thread(process.slots);
    let (mut handler, mut memory) = load::<H>(slot, process)?;
    while let Ok(order) = orders.recv() {
        match order {
            Order::Run(assignment) => {
                if run_job(&mut handler, assignment, process, &memory) == After::Reload {
                    discard(handler);
                    (handler, memory) = load(slot, process)?;
                }
            }
            Order::Probe => probe(slot, process, &memory),
        }
    }
    discard(handler);
    Ok(())
}

fn load<H: Handler>(slot: u32, process: &Process) -> Result<(H, Memory), LoadFailed> {
    let started = Instant::now();
    let env = LoadEnv {
        slot,
        slots: process.slots,
        worker_id: process.worker_id.clone(),
        requested_device: process.device.clone(),
        device: OnceLock::new(),
        outgoing: Arc::clone(&process.outgoing),
        shared: Arc::clone(&process.shared),
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
            let memory = Memory::of(device.as_deref());
            let device = device.unwrap_or_else(|| "cpu".to_owned());
            process.outgoing.push(&ToSupervisor::Loaded { slot, device, millis, warm_up_millis }, Bytes::new());
            Ok((handler, memory))
        }
        Err(error) => {
            let report = error.into_report(ErrorKind::Load);
            log(format_args!("slot {slot} cannot load: {}", report.message));
            process.outgoing.push_report(&ToSupervisor::LoadFailed { slot }, &report);
            Err(LoadFailed)
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn probe(slot: u32, process: &Process, memory: &Memory) {
    let Err(error) = memory.probe() else {
        return process.outgoing.push(&ToSupervisor::Probed { slot, ok: true }, Bytes::new());
    };
    log(format_args!("slot {slot}: the device does not work any more: {error}"));
    let report = HandlerError::new(ErrorKind::DeviceLost, error).into_report(ErrorKind::DeviceLost);
    process.outgoing.push_report(&ToSupervisor::Probed { slot, ok: false }, &report);
}

#[derive(Debug, PartialEq, Eq)]
enum After {
    Ready,
    Reload,
}

fn run_job<H: Handler>(handler: &mut H, assignment: Assignment, process: &Process, memory: &Memory) -> After {
    let Assignment { running, payload } = assignment;
    let (job, attempt) = (running.id.clone(), running.attempt);
    memory.begin(process.slots == 1);
    let (refresh, mut records, result) = match begin(&running, &process.outgoing, &payload) {
        Ok(Envelope { input, fields }) => {
            // A job can be large: each form of it goes when the next is built.
            drop(payload);
            let context = Job::new(Arc::clone(&running), Arc::clone(&process.outgoing), fields);
            #[cfg(feature = "tracing")]
            let _span = crate::events::job_span(&job).entered();
            let result = panics::catch("the handler", || {
                let parsed = parse_input(input.as_deref())?;
                drop(input);
                let output = handler.run(parsed, &context)?;
                Ok(encode("output", &output)?)
            });
            // Here the job's folder is removed, before anyone hears of the result.
            (context.refresh_requested(), context.into_records(), result)
        }
        Err(error) => (false, BTreeMap::new(), Ok(Err(error))),
    };

    // From here on a cancel finds nothing, and the final message is the last of the job.
    process.jobs.remove(&running);
    let (error, default, reloading) = match result {
        Ok(Ok(output)) => {
            memory.record(&mut records);
            process.outgoing.push(&ToSupervisor::Done { job, attempt, refresh, records }, output);
            return After::Ready;
        }
        // A handler that gives up because it was told to may say so in any words.
        Ok(Err(error)) => (error, running.stopped().map_or(ErrorKind::InferenceError, |stopped| stopped.kind()), false),
        Err(panic) => (panic, ErrorKind::InferenceError, true),
    };
    let failed = ToSupervisor::Failed { job, attempt, refresh, reloading };
    let guessed = error.kind().is_none();
    let mut report = error.into_report(default);
    // Any text may quote what a user has sent, and a lost device costs the process.
    if guessed && report.kind == ErrorKind::DeviceLost && memory.works() {
        report.kind = default;
    }
    memory.recover(&mut report);
    process.outgoing.push_report(&failed, &report);
    if reloading { After::Reload } else { After::Ready }
}

/// A job that was stopped while it waited is not begun. The supervisor must know that this one is before user code can end
/// the process: a job without a begin would not be blamed for it, and be run again.
fn begin(running: &RunningJob, outgoing: &Outgoing, payload: &[u8]) -> Result<Envelope, HandlerError> {
    let started = ToSupervisor::Started { job: running.id.clone(), attempt: running.attempt };
    if running.stopped().is_none() {
        outgoing.push(&started, Bytes::new());
        outgoing.flush(running.deadline.saturating_duration_since(Instant::now()));
    }
    match running.stopped() {
        Some(stopped) => Err(HandlerError::new(stopped.kind(), format!("{stopped} (before it was run)"))),
        None => parse_envelope(payload),
    }
}

/// Dropping a model is user code too, and after a CUDA error likely to panic.
fn discard<H>(handler: H) {
    if let Err(error) = panics::catch("dropping the handler", || drop(handler)) {
        log(format_args!("{error}"));
    }
}
