//! The thread of one model: runs batches, and narrows a failed batch down to the item that makes it fail.

use std::sync::Arc;

use bytes::Bytes;
use runpod_handler_protocol::records::{BATCH_ITEMS, BATCH_WAIT_SECONDS};
use runpod_handler_protocol::{BatchReport, ClosedBy, ErrorKind, ToSupervisor};

use crate::batch::{BatchHandler, BatchItem};
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
use crate::text::log;

type Items<B> = Vec<BatchItem<<B as BatchHandler>::Input, <B as BatchHandler>::Chunk>>;

/// A loaded model and what it works with.
struct Model<'a, B: BatchHandler> {
    slot: u32,
    setup: &'a SlotSetup,
    pool: &'a Pool<B::Input>,
    loaded: Loaded<B>,
}

/// The outcome of one run of a batch.
enum BatchRun {
    /// One result for each item, in order.
    Results(Vec<Result<Encoded, HandlerError>>),
    /// The batch failed as a whole.
    Failed { error: HandlerError, panicked: bool },
}

/// Runs batches until the pool is closed and empty; returns why the process must exit otherwise.
pub(crate) fn run_model<B: BatchHandler>(
    slot: u32,
    setup: &SlotSetup,
    _: &Reader<B::Input>,
    pool: &Pool<B::Input>,
) -> Result<(), Exit> {
    let _guard = loading::prepare_thread(setup)?;
    let loaded = loading::load(slot, setup, B::load, B::warm_up)?;
    let mut model = Model { slot, setup, pool, loaded };
    loop {
        match pool.take(slot, Load::default()) {
            Task::Run(jobs, closed_by) => model = model.run(jobs, closed_by)?,
            Task::Probe(slot) => loading::probe(slot, setup, &model.loaded.memory),
            Task::End => break,
        }
    }
    loading::discard(model.loaded.handler);
    Ok(())
}

impl<B: BatchHandler> Model<'_, B> {
    /// Runs a batch. A batch that fails as a whole runs again in halves, until the failing item is alone.
    fn run(mut self, jobs: Vec<WaitingJob<B::Input>>, closed_by: ClosedBy) -> Result<Self, Exit> {
        let mut batches = vec![self.begin(jobs, closed_by)];
        while let Some(items) = batches.pop() {
            if items.is_empty() {
                continue;
            }
            let cost = cost_of(&items);
            match self.run_once(&items) {
                BatchRun::Results(results) => {
                    self.pool.completed(cost);
                    let size = items.len();
                    items.into_iter().zip(results).for_each(|(item, result)| self.reply(item, result, false, size));
                }
                BatchRun::Failed { error, panicked } => {
                    let kind = error.apparent_kind();
                    if kind == Some(ErrorKind::Oom) {
                        self.pool.out_of_memory(cost);
                        self.loaded.memory.empty_cache();
                    }
                    // This process can no longer find out which job is the cause: the worker runs each of them alone.
                    if kind == Some(ErrorKind::DeviceLost) && items.len() > 1 && !self.loaded.memory.works() {
                        log(format_args!(
                            "the device was lost in a batch of {} jobs: {}",
                            items.len(),
                            error.message()
                        ));
                        return Err(Exit::DeviceLost);
                    }
                    // Failures are reported before the model is loaded again, which can take long.
                    let next = self.narrow(items, &error, panicked);
                    if panicked {
                        self = self.reload()?;
                    }
                    batches.extend(next);
                }
            }
        }
        Ok(self)
    }

    /// Reports the jobs as started. The worker must know that before user code can crash the process.
    fn begin(&self, jobs: Vec<WaitingJob<B::Input>>, closed_by: ClosedBy) -> Items<B> {
        self.loaded.memory.begin(self.setup.models == 1);
        let mut items = Vec::with_capacity(jobs.len());
        for WaitingJob { running, fields, input, cost, since, .. } in jobs {
            if let Some(stopped) = running.stopped() {
                Reply::failure(&running, not_run(stopped)).send(&self.setup.jobs, &self.setup.queue, None);
                continue;
            }
            let (id, attempt) = (running.id.clone(), running.attempt);
            let started = ToSupervisor::Started { job: id, attempt, model: Some(self.slot) };
            self.setup.queue.push(&started, Bytes::new());
            let job = Job::new(running, Arc::clone(&self.setup.queue), fields);
            job.record(BATCH_WAIT_SECONDS, since.elapsed().as_secs_f64());
            items.push(BatchItem::new(input, cost, job));
        }
        if self.setup.batch_reports && !items.is_empty() {
            let jobs = u32::try_from(items.len()).unwrap_or(u32::MAX);
            let (cost, limits) = (cost_of(&items), self.pool.limits_now());
            let batch = BatchReport { model: self.slot, jobs, cost, closed_by, limits };
            self.setup.queue.push(&ToSupervisor::Batch(batch), Bytes::new());
        }
        if let Some(time) = items.iter().map(|item| item.job.remaining()).min() {
            self.setup.queue.flush(time);
        }
        items
    }

    fn run_once(&mut self, items: &Items<B>) -> BatchRun {
        #[cfg(feature = "tracing")]
        let _span = match &items[..] {
            [item] => Some(crate::events::job_span(item.job.id()).entered()),
            _ => None,
        };
        let handler = &mut self.loaded.handler;
        let outcome = panics::catch("the handler", || {
            let results = handler.run_batch(items)?;
            let (found, expected) = (results.len(), items.len());
            if found != expected {
                let message = format!("run_batch returned {found} results for {expected} jobs");
                let error = HandlerError::new(ErrorKind::Protocol, message);
                return Ok(items.iter().map(|_| Err(error.clone())).collect());
            }
            let encoded = items.iter().zip(results).map(|(item, result)| encode_output(&item.job, &result?));
            Ok(encoded.collect())
        });
        match outcome {
            Ok(Ok(results)) => BatchRun::Results(results),
            Ok(Err(error)) => BatchRun::Failed { error, panicked: false },
            Err(error) => BatchRun::Failed { error, panicked: true },
        }
    }

    /// The batches that run next, the last one first. Items that cannot run again fail with the error of the batch.
    fn narrow(&self, items: Items<B>, error: &HandlerError, panicked: bool) -> Vec<Items<B>> {
        let size = items.len();
        let (mut first, failed): (Items<B>, Items<B>) =
            items.into_iter().partition(|item| size > 1 && !item.job.has_streamed() && !item.job.is_stopped());
        failed.into_iter().for_each(|item| self.reply(item, Err(error.clone()), panicked, size));
        let second = first.split_off(first.len().div_ceil(2));
        vec![second, first]
    }

    fn reply(
        &self,
        item: BatchItem<B::Input, B::Chunk>,
        result: Result<Encoded, HandlerError>,
        panicked: bool,
        size: usize,
    ) {
        let BatchItem { input, job, .. } = item;
        drop(input);
        job.record(BATCH_ITEMS, size as f64);
        pooled::reply(self.setup, &self.loaded.memory, job, result, panicked);
    }

    /// Builds the model again after a panic. Jobs keep coming meanwhile, and wait.
    fn reload(self) -> Result<Self, Exit> {
        let Self { slot, setup, pool, loaded } = self;
        loading::discard(loaded.handler);
        let loaded = loading::reload(slot, setup, B::load, B::warm_up)?;
        Ok(Self { slot, setup, pool, loaded })
    }
}

fn cost_of<I, C>(items: &[BatchItem<I, C>]) -> u64 {
    items.iter().fold(0, |cost, item| cost.saturating_add(item.cost))
}
