//! What happens to the jobs of a step that failed as a whole, and to one for which there is not enough memory.

use std::sync::Arc;

use bytes::Bytes;
use runpod_handler_protocol::ErrorKind;

use super::model::{Model, Waiting, load_of};
use crate::error::HandlerError;
use crate::job::Job;
use crate::serve::exit::Exit;
use crate::serve::loading;
use crate::serve::pooled::pool::WaitingJob;
use crate::serve::program::ReceivedJob;
use crate::serve::reply::{Reply, not_run};
use crate::step::{Running, StepHandler};
use crate::text::log;

impl<H: StepHandler> Model<'_, H> {
    /// A step has failed as a whole: drops its sequences, and decides which of their jobs run again. After a panic all sequences
    /// are dropped, because they belong to the model.
    pub(super) fn step_failed(&mut self, steppers: usize, error: &HandlerError, panicked: bool) -> Result<(), Exit> {
        self.settle();
        let kind = error.apparent_kind();
        // This process can no longer find out which job is the cause: the worker runs each of them alone.
        if kind == Some(ErrorKind::DeviceLost) && steppers > 1 && !self.loaded.memory.works() {
            log(format_args!("the device was lost in a step of {steppers} jobs: {}", error.message()));
            return Err(Exit::DeviceLost);
        }
        let failed: Vec<Running<H>> = self.running.extract_if(.., |one| panicked || !one.sits_out).collect();
        let cost = load_of(&failed).cost;
        let mut again = Vec::with_capacity(failed.len());
        for Running { sequence, job, payload, .. } in failed {
            loading::discard(sequence);
            if steppers > 1 {
                again.extend(self.again_or_fail(job, payload, error, panicked));
            } else {
                self.reply(job, Err(error.clone()), panicked);
            }
        }
        self.is_spoiled |= panicked;
        if kind == Some(ErrorKind::Oom) {
            self.pool.out_of_memory(cost);
            self.loaded.memory.empty_cache();
            self.wait_again(again);
        } else {
            let second = again.split_off(again.len().div_ceil(2));
            self.suspects.extend([second, again]);
        }
        Ok(())
    }

    /// Reads a job again, so that it can run again from its input. One that has streamed, or must stop, fails with this error.
    pub(super) fn again_or_fail(
        &self,
        job: Job<H::Chunk>,
        payload: Bytes,
        error: &HandlerError,
        panicked: bool,
    ) -> Option<WaitingJob<H::Input>> {
        if job.has_streamed() || job.is_stopped() {
            self.reply(job, Err(error.clone()), panicked);
            return None;
        }
        let running = job.running();
        // With its temporary directory and its records.
        drop(job);
        match self.reader.read(ReceivedJob { running: Arc::clone(&running), payload }) {
            Ok(job) => Some(job),
            Err(error) => {
                Reply::failure(&running, error).send(&self.setup.jobs, &self.setup.queue, None);
                None
            }
        }
    }

    /// Returns jobs to the pool. A stop that came before found them nowhere.
    pub(super) fn wait_again(&self, jobs: Waiting<H>) {
        let running: Vec<_> = jobs.iter().map(|job| Arc::clone(&job.running)).collect();
        self.pool.put_back(jobs);
        for job in running.iter().filter(|job| job.stopped().is_some()) {
            if let Some(job) = self.pool.remove(job) {
                self.drop_stopped(&job);
            }
        }
    }

    pub(super) fn drop_stopped(&self, job: &WaitingJob<H::Input>) {
        if let Some(stopped) = job.running.stopped() {
            Reply::failure(&job.running, not_run(stopped)).send(&self.setup.jobs, &self.setup.queue, None);
        }
    }
}
