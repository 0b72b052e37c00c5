//! The intake thread: reads the inputs of arriving jobs, and takes stopped jobs out of the pool.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::batch::BatchHandler;
use crate::error::HandlerError;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::panics;
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
use crate::serve::batching::pool::{Pool, WaitingJob};
use crate::serve::loading::SlotSetup;
use crate::serve::program::ReceivedJob;
use crate::serve::reply::{Reply, not_run};

/// What the control thread passes on.
#[derive(Debug)]
pub(crate) enum Incoming {
    Job(ReceivedJob),
    /// The job was asked to stop; it came before this.
    Stopped(Arc<RunningJob>),
}

/// Runs until the sender is dropped, then closes the pool.
pub(crate) fn read_inputs<B: BatchHandler>(
    setup: &SlotSetup,
    schema: &InputSchema,
    pool: &Pool<B::Input>,
    received: &Receiver<Incoming>,
) {
    while let Ok(incoming) = received.recv() {
        match incoming {
            Incoming::Job(job) => {
                let running = Arc::clone(&job.running);
                match panics::catch("reading the input", || read::<B>(job, schema, pool)).and_then(|result| result) {
                    Ok((key, job)) => pool.push(key, job),
                    Err(error) => Reply::failure(&running, error).send(&setup.jobs, &setup.queue, None),
                }
            }
            Incoming::Stopped(running) => {
                if let (Some(_), Some(stopped)) = (pool.remove(&running), running.stopped()) {
                    Reply::failure(&running, not_run(stopped)).send(&setup.jobs, &setup.queue, None);
                }
            }
        }
    }
    pool.close();
}

fn read<B: BatchHandler>(
    job: ReceivedJob,
    schema: &InputSchema,
    pool: &Pool<B::Input>,
) -> Result<(String, WaitingJob<B::Input>), HandlerError> {
    let ReceivedJob { running, payload } = job;
    if let Some(stopped) = running.stopped() {
        return Err(not_run(stopped));
    }
    let Envelope { input, fields } = parse_envelope(&payload)?;
    drop(payload);
    let input: B::Input = parse_input(input.as_deref(), schema)?;
    let (cost, max_cost) = (B::cost(&input), pool.limits().max_cost());
    if cost > max_cost {
        let message = format!("input: the cost of this job is {cost}, but a batch may have at most {max_cost}");
        return Err(HandlerError::validation(message));
    }
    Ok((B::key(&input), WaitingJob { running, fields, input, cost, since: Instant::now() }))
}
