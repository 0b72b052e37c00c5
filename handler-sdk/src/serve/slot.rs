//! One slot: an OS thread that builds a model and runs jobs on it, one after another.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use bytes::Bytes;
use runpod_handler_protocol::{Manifest, ToSupervisor};

use crate::check::Check;
use crate::error::HandlerError;
use crate::handler::Handler;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::job::Job;
use crate::load_env::LoadEnv;
use crate::manifest::{About, manifest};
use crate::output::encode_output;
use crate::panics;
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
use crate::send_queue::SendQueue;
use crate::serve::exit::Exit;
use crate::serve::loading::{self, LoadFailed, Loaded, SlotSetup};
use crate::serve::program::{Models, Program, ReceivedJob, Started, spawn};
use crate::serve::reply::{Reply, not_run};

/// A handler that runs one job at a time in each slot.
#[derive(Debug)]
pub(crate) struct OneByOne<H>(PhantomData<fn() -> H>);

impl<H: Handler> Program for OneByOne<H> {
    fn manifest() -> Manifest {
        manifest::<H::Input, H::Output, H::Chunk>(About {
            name: H::NAME,
            version: H::VERSION,
            idempotent: H::IDEMPOTENT,
            max_batch_items: None,
            max_concurrency: None,
            max_waiting_items: None,
        })
    }

    fn checks(env: &LoadEnv) -> Vec<Check> {
        H::checks(env)
    }

    fn start(setup: &SlotSetup, exit: &SyncSender<Exit>) -> Result<Started, HandlerError> {
        let schema = Arc::new(InputSchema::compile(schemars::schema_for!(H::Input).as_value())?);
        let (mut slots, mut threads) = (Vec::new(), Vec::new());
        for slot in 0..setup.models {
            // Room for one: the worker may send the next job as soon as it has read the result of the last one.
            let (sender, orders) = sync_channel(1);
            let (setup, schema, exit) = (setup.clone(), Arc::clone(&schema), exit.clone());
            threads.push(spawn(&format!("slot-{slot}"), move || {
                if run_slot::<H>(slot, &setup, &schema, &orders).is_err() {
                    let _ = exit.try_send(Exit::LoadFailed);
                }
            })?);
            slots.push(sender);
        }
        Ok(Started { models: Box::new(Slots(slots)), threads })
    }
}

/// The way to the threads of the slots.
#[derive(Debug)]
struct Slots(Vec<SyncSender<SlotOrder>>);

impl Models for Slots {
    fn assign(&self, slot: u32, job: ReceivedJob) -> Result<(), String> {
        let sender = self.0.get(slot as usize).ok_or_else(|| format!("this process has no slot {slot}"))?;
        sender.try_send(SlotOrder::Run(job)).map_err(|error| match error {
            TrySendError::Full(_) => format!("slot {slot} is busy"),
            TrySendError::Disconnected(_) => format!("slot {slot} is closed"),
        })
    }

    fn probe(&self, slot: u32) {
        // A slot that cannot take the order runs a job or has ended, and reports that itself.
        if let Some(sender) = self.0.get(slot as usize) {
            let _ = sender.try_send(SlotOrder::Probe);
        }
    }

    fn stopped(&self, _job: &Arc<RunningJob>) {
        // The job sees its stop flag.
    }
}

/// What a slot does next.
#[derive(Debug)]
enum SlotOrder {
    Run(ReceivedJob),
    /// Compute one number on the device.
    Probe,
}

/// Runs jobs until the sender of `orders` is dropped.
fn run_slot<H: Handler>(
    slot: u32,
    setup: &SlotSetup,
    schema: &InputSchema,
    orders: &Receiver<SlotOrder>,
) -> Result<(), LoadFailed> {
    let _guard = loading::prepare_thread(setup)?;
    let mut model = load::<H>(slot, setup)?;
    while let Ok(order) = orders.recv() {
        match order {
            SlotOrder::Run(received) => {
                if run_job(&mut model, received, setup, schema) == After::Reload {
                    loading::discard(model.handler);
                    model = load(slot, setup)?;
                }
            }
            SlotOrder::Probe => loading::probe(slot, setup, &model.memory),
        }
    }
    loading::discard(model.handler);
    Ok(())
}

fn load<H: Handler>(slot: u32, setup: &SlotSetup) -> Result<Loaded<H>, LoadFailed> {
    loading::load(slot, setup, H::load, H::warm_up)
}

#[derive(Debug, PartialEq, Eq)]
enum After {
    Ready,
    Reload,
}

fn run_job<H: Handler>(model: &mut Loaded<H>, received: ReceivedJob, setup: &SlotSetup, schema: &InputSchema) -> After {
    let ReceivedJob { running, payload } = received;
    model.memory.begin(setup.models == 1);
    let (refresh, records, result) = match begin(&running, &setup.queue, &payload) {
        Ok(Envelope { input, fields }) => {
            // A job can be large: each form of it is dropped once the next one is built.
            drop(payload);
            let job = Job::new(Arc::clone(&running), Arc::clone(&setup.queue), fields);
            #[cfg(feature = "tracing")]
            let _span = crate::events::job_span(job.id()).entered();
            let result = panics::catch("the handler", || {
                let parsed = parse_input(input.as_deref(), schema)?;
                drop(input);
                let output = model.handler.run(parsed, &job)?;
                encode_output(&job, &output)?.wait()
            });
            // This drops the job's temporary directory, before the result is sent.
            (job.refresh_requested(), job.into_records(), result)
        }
        Err(error) => (false, BTreeMap::new(), Ok(Err(error))),
    };
    let panicked = result.is_err();
    let result = result.and_then(|result| result);
    let reply = Reply { running: &running, result, panicked, reloading: panicked, refresh, records };
    reply.send(&setup.jobs, &setup.queue, Some(&model.memory));
    if panicked { After::Reload } else { After::Ready }
}

/// Reports the job as started, and reads the job object. A job that was stopped while it waited is not started.
///
/// The report must reach the worker before user code can crash the process: the worker runs a job that was not started again,
/// without blaming it for the crash.
fn begin(running: &RunningJob, queue: &SendQueue, payload: &Bytes) -> Result<Envelope, HandlerError> {
    let started = ToSupervisor::Started { job: running.id.clone(), attempt: running.attempt, model: None };
    if running.stopped().is_none() {
        queue.push(&started, Bytes::new());
        queue.flush(running.deadline.saturating_duration_since(Instant::now()));
    }
    match running.stopped() {
        Some(stopped) => Err(not_run(stopped)),
        None => parse_envelope(payload),
    }
}
