//! The intake thread: reads the inputs of arriving jobs, and takes stopped jobs out of the pool.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::pool::{Pool, WaitingJob};
use crate::error::HandlerError;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::panics;
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
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

/// Makes waiting jobs of received ones, by the rules of a handler.
pub(crate) struct Reader<I> {
    pub(crate) schema: InputSchema,
    pub(crate) key: fn(&I) -> String,
    pub(crate) cost: fn(&I) -> u64,
    pub(crate) max_cost: u64,
    /// What the limit of the cost applies to, for the error of a job that is over it.
    pub(crate) limited: &'static str,
    /// Whether to keep the job object, so that the job can be read again.
    pub(crate) keeps_payload: bool,
}

impl<I> fmt::Debug for Reader<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("max_cost", &self.max_cost).finish_non_exhaustive()
    }
}

impl<I: DeserializeOwned + JsonSchema> Reader<I> {
    /// Reads a job. The schema of the input and user code decide whether it is valid.
    pub(crate) fn read(&self, job: ReceivedJob) -> Result<WaitingJob<I>, HandlerError> {
        panics::catch("reading the input", || self.read_unguarded(job)).and_then(|result| result)
    }

    fn read_unguarded(&self, job: ReceivedJob) -> Result<WaitingJob<I>, HandlerError> {
        let ReceivedJob { running, payload } = job;
        if let Some(stopped) = running.stopped() {
            return Err(not_run(stopped));
        }
        let Envelope { input, fields } = parse_envelope(&payload)?;
        let payload = if self.keeps_payload { payload } else { Bytes::new() };
        let input: I = parse_input(input.as_deref(), &self.schema)?;
        let (cost, max_cost, limited) = ((self.cost)(&input), self.max_cost, self.limited);
        if cost > max_cost {
            let message = format!("input: the cost of this job is {cost}, but {limited} may have at most {max_cost}");
            return Err(HandlerError::validation(message));
        }
        let key = (self.key)(&input);
        Ok(WaitingJob { running, fields, key, input, cost, payload, since: Instant::now() })
    }
}

/// Runs until the sender is dropped, then closes the pool.
pub(crate) fn read_inputs<I: DeserializeOwned + JsonSchema>(
    setup: &SlotSetup,
    reader: &Reader<I>,
    pool: &Pool<I>,
    received: &Receiver<Incoming>,
) {
    while let Ok(incoming) = received.recv() {
        match incoming {
            Incoming::Job(job) => {
                let running = Arc::clone(&job.running);
                match reader.read(job) {
                    Ok(job) => pool.push(job),
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
