//! One slot: an OS thread that builds a model and runs jobs on it, one after another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use bytes::Bytes;
use runpod_handler_protocol::ToSupervisor;

use crate::encode::encode;
use crate::error::HandlerError;
use crate::handler::Handler;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::job::Job;
use crate::panics;
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
use crate::send_queue::SendQueue;
use crate::serve::loading::{self, LoadFailed, Loaded, SlotSetup};
use crate::serve::reply::Reply;
use crate::stopped::Stopped;

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

/// Runs jobs until the sender of `orders` is dropped.
pub(crate) fn run_slot<H: Handler>(
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
                Ok(encode("output", &output)?)
            });
            // This drops the job's temporary directory, before the result is sent.
            (job.refresh_requested(), job.into_records(), result)
        }
        Err(error) => (false, BTreeMap::new(), Ok(Err(error))),
    };
    let panicked = result.is_err();
    let result = result.and_then(|result| result);
    let reply = Reply { running: &running, result, panicked, reloading: panicked, refresh, records };
    reply.send(&setup.jobs, &setup.queue, &model.memory);
    if panicked { After::Reload } else { After::Ready }
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
        Some(stopped) => Err(not_run(stopped)),
        None => parse_envelope(payload),
    }
}

/// The error of a job that was stopped before it ran.
pub(crate) fn not_run(stopped: Stopped) -> HandlerError {
    HandlerError::new(stopped.kind(), format!("{stopped} (before it ran)"))
}
