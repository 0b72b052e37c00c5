//! Rule: what is noted about batches and steps. It is shown to people, and nothing is decided by it.

use runpod_handler_protocol::{BatchReport, StepReport};

use crate::boundary::{BatchingView, ProcessId, Report};
use crate::states::Process;
use crate::worker::Worker;

impl Worker {
    /// A model has begun a batch.
    pub(crate) fn batch_begun(&mut self, id: ProcessId, batch: BatchReport) {
        let batching = &mut self.process(id).batching;
        batching.batches.count = batching.batches.count.saturating_add(1);
        batching.batches.jobs = batching.batches.jobs.saturating_add(batch.jobs.into());
        batching.batches.last = Some(batch);
        batching.limits = Some(batch.limits);
        self.report(Report::BatchBegun { process: id, batch });
    }

    /// A model has taken steps.
    pub(crate) fn steps_taken(&mut self, id: ProcessId, steps: StepReport) {
        let batching = &mut self.process(id).batching;
        batching.steps.count = batching.steps.count.saturating_add(steps.steps);
        batching.steps.advanced = batching.steps.advanced.saturating_add(steps.advanced);
        batching.steps.last = Some(steps);
        batching.limits = Some(steps.limits);
        self.report(Report::StepsTaken { process: id, steps });
    }

    /// The view of a process that runs several jobs at once; `None` for any other.
    pub(crate) fn batching_view(&self, process: &Process) -> Option<BatchingView> {
        let max_jobs = process.manifest.as_ref()?.max_batch_items?;
        let waiting = self.jobs.not_begun(process.id);
        let running = process.slots.busy().saturating_sub(waiting);
        Some(BatchingView { max_jobs, running, waiting, ..process.batching })
    }
}
