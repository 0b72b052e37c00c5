//! Reports the outcome of a job to the worker.

use std::collections::BTreeMap;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ToSupervisor};

use crate::error::HandlerError;
use crate::running_job::{RunningJob, RunningJobs};
use crate::send_queue::SendQueue;
use crate::serve::job_memory::JobMemory;
use crate::stopped::Stopped;

/// The outcome of a job.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) running: &'a RunningJob,
    /// The output as JSON, or why there is none.
    pub(crate) result: Result<Bytes, HandlerError>,
    /// The handler panicked.
    pub(crate) panicked: bool,
    /// The slot takes no job until it has loaded its model again.
    pub(crate) reloading: bool,
    pub(crate) refresh: bool,
    pub(crate) records: BTreeMap<String, f64>,
}

impl<'a> Reply<'a> {
    /// The failure of a job that no model has run.
    pub(crate) fn failure(running: &'a RunningJob, error: HandlerError) -> Self {
        let records = BTreeMap::new();
        Self { running, result: Err(error), panicked: false, reloading: false, refresh: false, records }
    }

    /// Sends the final message of the job. From here on a cancel finds no job. `memory` is that of the model that ran it.
    pub(crate) fn send(self, jobs: &RunningJobs, queue: &SendQueue, memory: Option<&JobMemory>) {
        let Self { running, result, panicked, reloading, refresh, mut records } = self;
        if !jobs.remove(running) {
            // It was answered already, because it blocked its thread for too long.
            return;
        }
        let (job, attempt) = (running.id.clone(), running.attempt);
        let error = match result {
            Ok(output) => {
                if let Some(memory) = memory {
                    memory.record(&mut records);
                }
                return queue.push(&ToSupervisor::Done { job, attempt, refresh, records }, output);
            }
            Err(error) => error,
        };
        // The error of a job that was asked to stop can have any text: its kind follows from the reason to stop.
        let stopped = running.stopped().filter(|_| !panicked);
        let default = stopped.map_or(ErrorKind::InferenceError, |stopped| stopped.kind());
        let kind_is_guessed = error.kind().is_none();
        let mut report = error.into_report(default);
        // Any text may quote a user's input, and a lost device costs the process.
        if kind_is_guessed && report.kind == ErrorKind::DeviceLost && memory.is_none_or(JobMemory::works) {
            report.kind = default;
        }
        if let Some(memory) = memory {
            memory.recover(&mut report);
        }
        queue.push_report(&ToSupervisor::Failed { job, attempt, refresh, reloading }, &report);
    }
}

/// The error of a job that was stopped before it ran.
pub(crate) fn not_run(stopped: Stopped) -> HandlerError {
    HandlerError::new(stopped.kind(), format!("{stopped} (before it ran)"))
}
