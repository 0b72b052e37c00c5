//! The future of one job, from its input to its result.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::StopReason;

use super::polls::Polls;
use crate::async_handler::AsyncHandler;
use crate::async_job::{AsyncJob, AwaitedChunks};
use crate::concurrency::Concurrency;
use crate::error::HandlerError;
use crate::input::{Envelope, parse_envelope, parse_input};
use crate::job::Job;
use crate::output::encode_output;
use crate::panics;
use crate::running_job::RunningJob;
use crate::schema::InputSchema;
use crate::serve::job_memory::JobMemory;
use crate::serve::loading::SlotSetup;
use crate::serve::program::ReceivedJob;
use crate::serve::reply::{Reply, not_run};
use crate::stopped::Stopped;
use crate::text::log;

/// How long a job that was stopped may take to end by itself.
pub(super) const CLEANUP_TIME: Duration = Duration::from_secs(2);

/// What all jobs share.
#[derive(Debug)]
pub(super) struct Running<H> {
    pub(super) handler: H,
    pub(super) schema: InputSchema,
    pub(super) concurrency: Concurrency,
    pub(super) memory: JobMemory,
    pub(super) setup: SlotSetup,
}

/// Runs a job and reports its outcome.
pub(super) async fn run_job<H: AsyncHandler>(shared: Arc<Running<H>>, polls: Arc<Polls>, received: ReceivedJob) {
    let running = Arc::clone(&received.running);
    let SlotSetup { jobs, queue, .. } = &shared.setup;
    let reply = match begin(&shared, received) {
        Ok((job, input)) => {
            let future = Guarded::new(execute(&shared, &job, input), Arc::clone(&running), polls);
            let (result, panicked) = future.until_stopped().await;
            let (refresh, records) = (job.refresh_requested(), job.take_records());
            // This removes the job's temporary directory, before the result is sent.
            drop(job);
            Reply { running: &running, result, panicked, reloading: false, refresh, records }
        }
        Err(error) => Reply::failure(&running, error),
    };
    // The memory of the process says nothing about one of many jobs; it only matters for what follows from an error.
    let memory = reply.result.is_err().then_some(&shared.memory);
    reply.send(jobs, queue, memory);
    // A task of the handler may still have the job: nothing that it sends from now on belongs to anything.
    running.stop(StopReason::Cancelled);
}

/// A job, and its input as JSON.
type Begun = (Arc<Job<AwaitedChunks>>, Option<Bytes>);

/// Reads the job object. A job that was stopped while it waited does not run.
fn begin<H>(shared: &Running<H>, received: ReceivedJob) -> Result<Begun, HandlerError> {
    let ReceivedJob { running, payload } = received;
    if let Some(stopped) = running.stopped() {
        return Err(not_run(stopped));
    }
    let Envelope { input, fields } = parse_envelope(&payload)?;
    drop(payload);
    Ok((Arc::new(Job::new(running, Arc::clone(&shared.setup.queue), fields)), input))
}

/// The part of a job that runs user code.
async fn execute<H: AsyncHandler>(
    shared: &Running<H>,
    job: &Arc<Job<AwaitedChunks>>,
    input: Option<Bytes>,
) -> Result<Bytes, HandlerError> {
    let parsed = parse_input(input.as_deref(), &shared.schema)?;
    drop(input);
    let of_handler = AsyncJob::new(Arc::clone(job), shared.concurrency.clone());
    let output = encode_output(job, &shared.handler.run(parsed, of_handler).await?)?;
    output.ready().await
}

/// A future of user code: it catches panics, is in the job's log span, and shows the watch when it blocks its thread.
struct Guarded<F> {
    /// `None` once it has been dropped.
    future: Option<Pin<Box<F>>>,
    running: Arc<RunningJob>,
    polls: Arc<Polls>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl<F: Future<Output = Result<Bytes, HandlerError>>> Guarded<F> {
    fn new(future: F, running: Arc<RunningJob>, polls: Arc<Polls>) -> Self {
        Self {
            future: Some(Box::pin(future)),
            #[cfg(feature = "tracing")]
            span: crate::events::job_span(&running.id),
            running,
            polls,
        }
    }

    /// Runs until the future ends or the job must. Returns the result, and whether it was a panic.
    async fn until_stopped(mut self) -> (Result<Bytes, HandlerError>, bool) {
        let running = Arc::clone(&self.running);
        let outcome = tokio::select! {
            // The job sees its stop first.
            biased;
            outcome = &mut self => outcome,
            stopped = must_end(&running) => Ok(Err(stopped.into())),
        };
        self.discard();
        let panicked = outcome.is_err();
        (outcome.and_then(|result| result), panicked)
    }
}

impl<F> Guarded<F> {
    /// Runs user code.
    fn guard<T>(&mut self, what: &str, code: impl FnOnce(Option<Pin<&mut F>>) -> T) -> Result<T, HandlerError> {
        let _poll = self.polls.enter(&self.running);
        #[cfg(feature = "tracing")]
        let _span = self.span.enter();
        panics::catch(what, || code(self.future.as_mut().map(Pin::as_mut)))
    }

    /// Drops the future, which runs user code, too.
    fn discard(&mut self) {
        let Some(future) = self.future.take() else { return };
        if let Err(error) = self.guard("dropping the job", |_| drop(future)) {
            log(format_args!("{error}"));
        }
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        self.discard();
    }
}

impl<F: Future> Future for Guarded<F> {
    /// An error is a panic.
    type Output = Result<F::Output, HandlerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.guard("the handler", |future| future.map_or(Poll::Pending, |future| future.poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Waits until the job must end, and does not end by itself.
async fn must_end(running: &RunningJob) -> Stopped {
    let stopped = running.until_stopped().await;
    if running.ends_itself() {
        tokio::time::sleep(CLEANUP_TIME).await;
    }
    stopped
}
