//! One job at the far endpoint, from its submission there to its end here.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{FarEndpoint, FarError, Why};
use super::counts::EndpointCounts;
use super::limits::{LAST_CANCEL_TIME, LAST_STATUS_TIME, RETRY_PAUSE, STATUS_INTERVAL, STREAM_INTERVAL};
use super::settings::OverflowSettings;
use super::spending::dollars;
use super::wire::{FarJob, FarStream};
use crate::store::{JobId, OVERFLOW, Outcome, Payload, Status, Store, StoreError, TakenJob};

/// What the jobs of one endpoint share.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) endpoint: Arc<str>,
    pub(super) far: FarEndpoint,
    pub(super) settings: OverflowSettings,
    pub(super) counts: EndpointCounts,
    /// The store outlives this program.
    pub(super) resumes: bool,
    /// Limits the requests at once that cancel jobs.
    pub(super) cancels: Semaphore,
}

impl Shared {
    /// Repeats what the store cannot do at the moment. `None` when it refuses for good, or when this program ends first.
    pub(super) async fn patiently<T, F>(
        &self,
        job: &JobId,
        leave: &CancellationToken,
        mut operation: impl FnMut() -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match operation().await {
                Ok(done) => return Some(done),
                Err(StoreError::Unavailable(_) | StoreError::StreamFull | StoreError::StreamsFull) => {}
                Err(error) => {
                    tracing::warn!(endpoint = %self.endpoint, %job, %error, "A report of the overflow was refused.");
                    return None;
                }
            }
            tokio::select! {
                () = sleep(RETRY_PAUSE) => {}
                () = leave.cancelled() => return None,
            }
        }
    }
}

/// How a job left the overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// With its result.
    Ended,
    /// Back to the queue.
    Returned(Why),
    /// It was over before, on this side.
    Stopped,
    /// It is left to the next process, or to nobody.
    Left,
}

/// How a job left, and what it cost.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) how: How,
    pub(super) dollars: f64,
    /// It is to be cancelled at the far endpoint.
    pub(super) cancel: Option<ToCancel>,
}

/// A job that is to be cancelled at the far endpoint.
#[derive(Debug)]
pub(super) struct ToCancel {
    /// Its id there.
    pub(super) far_id: String,
    /// A result that it has there by then is its result here: nobody has read a part of it.
    pub(super) takes_result: bool,
    /// When it began there, as far as this process knows.
    pub(super) begun: Option<Instant>,
    /// Its cost is counted already.
    pub(super) is_paid: bool,
}

impl From<How> for Departure {
    fn from(how: How) -> Self {
        Self { how, dollars: 0.0, cancel: None }
    }
}

/// Follows one job.
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) job: JobId,
    /// The job is over on this side.
    pub(super) stop: CancellationToken,
    /// This program ends.
    pub(super) leave: CancellationToken,
    /// When a worker of the far endpoint began the job, as far as this process knows.
    pub(super) begun: Arc<OnceLock<Instant>>,
}

/// What was passed on.
#[derive(Default)]
struct Seen {
    progress: Option<Payload>,
    last_status: Option<Instant>,
    /// Stream items were read.
    items: bool,
}

impl Follower {
    /// Submits the job and follows it to its end.
    pub(super) async fn submit(&self, job: &TakenJob) -> Departure {
        let shared = &self.shared;
        // Not dropped on a stop: what was submitted must be known, so that it can be cancelled.
        let far_id = match self.submission(job).await {
            Ok(far_id) => far_id,
            Err(error) => {
                shared.counts.note_far(error.why() == Why::OfJob);
                if error.why() == Why::OfJob {
                    tracing::warn!(endpoint = %shared.endpoint, job = %self.job, %error, "The overflow endpoint refuses a job for its own sake. It is not sent again, and waits for a worker of this endpoint: start one, or cancel the job and submit it corrected.");
                } else {
                    tracing::warn!(endpoint = %shared.endpoint, job = %self.job, %error, "The overflow endpoint does not accept a job. It goes back to the queue.");
                }
                return self.give_back(error.why()).await;
            }
        };
        shared.counts.note_far(true);
        tracing::debug!(endpoint = %shared.endpoint, job = %self.job, far_id, "A late job is run by the overflow endpoint.");
        self.patiently(|| shared.store.accepted_elsewhere(&shared.endpoint, &self.job, &far_id)).await;
        self.follow(&far_id).await
    }

    /// The id of the job there. When it is not known whether the job was accepted, the same submission is sent once more, in time.
    async fn submission(&self, job: &TakenJob) -> Result<String, FarError> {
        let (far, started) = (&self.shared.far, Instant::now());
        match far.submit(job).await {
            Err(error) if error.is_in_doubt() && started.elapsed() + RETRY_PAUSE < self.shared.settings.lost_after => {
                tracing::debug!(endpoint = %self.shared.endpoint, job = %self.job, %error, "A submission to the overflow endpoint is repeated.");
                sleep(RETRY_PAUSE).await;
                far.submit(job).await
            }
            outcome => outcome,
        }
    }

    /// Follows a job that was submitted before.
    pub(super) async fn follow(&self, far_id: &str) -> Departure {
        let mut seen = Seen::default();
        let (mut heard, mut asked) = (Instant::now(), false);
        loop {
            if self.leave.is_cancelled() {
                return self.left(far_id).await;
            }
            let round = tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.stopped(far_id),
                // Where the next process goes on, a round is not cut off: what it has read would be lost.
                () = self.leave.cancelled(), if !self.shared.resumes => return self.left(far_id).await,
                round = self.round(far_id, &mut seen) => round,
            };
            let error = match round {
                Ok(Some(departure)) => return departure,
                Ok(None) => {
                    (heard, asked) = (Instant::now(), false);
                    self.shared.counts.note_far(true);
                    continue;
                }
                Err(error @ FarError::TooLarge(_)) => {
                    let outcome =
                        Outcome::failed(format!("the result cannot be fetched from the overflow endpoint: {error}"));
                    let to_cancel = ToCancel { is_paid: true, ..self.to_cancel(far_id, false) };
                    return Departure { cancel: Some(to_cancel), ..self.end(outcome, None).await };
                }
                Err(error) => error,
            };
            let is_lost = matches!(error, FarError::NotFound);
            if is_lost || heard.elapsed() >= self.shared.settings.lost_after {
                // It may be this side that heard nothing: its process was suspended, or its connection is dead.
                if !is_lost && !asked && self.shared.far.status_within(far_id, LAST_STATUS_TIME).await.is_ok() {
                    (heard, asked) = (Instant::now(), true);
                    continue;
                }
                tracing::warn!(endpoint = %self.shared.endpoint, job = %self.job, %error, "The overflow endpoint has lost a job. It goes back to the queue.");
                self.shared.counts.note_far(is_lost);
                return self.lose(far_id, &seen).await;
            }
            tokio::select! {
                () = sleep(RETRY_PAUSE) => {}
                () = self.stop.cancelled() => {}
                () = self.leave.cancelled() => {}
            }
        }
    }

    /// Passes on what is new; the departure of a job that has ended there.
    async fn round(&self, far_id: &str, seen: &mut Seen) -> Result<Option<Departure>, FarError> {
        let far = &self.shared.far;
        let started = Instant::now();
        let reply = far.stream(far_id).await?;
        seen.items |= !reply.stream.is_empty();
        let status = self.pass_items(reply).await;
        if status == Status::InProgress {
            self.begin(Duration::ZERO).await;
        }
        let is_due = seen.last_status.is_none_or(|last| started >= last + STATUS_INTERVAL);
        if status.is_terminal() || (status == Status::InProgress && is_due) {
            seen.last_status = Some(started);
            let job = far.status(far_id).await?;
            match job.status {
                Status::Cancelled => {
                    tracing::warn!(endpoint = %self.shared.endpoint, job = %self.job, "A job was cancelled at the overflow endpoint. It goes back to the queue.");
                    return Ok(Some(self.lose(far_id, seen).await));
                }
                status if status.is_terminal() => return self.finish(far_id, job).await.map(Some),
                _ => self.pass_progress(&job, seen).await,
            }
        }
        sleep_until(started + STREAM_INTERVAL).await;
        Ok(None)
    }

    async fn pass_items(&self, reply: FarStream) -> Status {
        let Shared { store, endpoint, .. } = &*self.shared;
        for item in reply.stream {
            let item: Payload = Arc::from(item.output);
            // A full stream holds up the reading of more.
            self.patiently(|| store.stream_item(endpoint, OVERFLOW, &self.job, Arc::clone(&item))).await;
        }
        reply.status
    }

    async fn pass_progress(&self, job: &FarJob, seen: &mut Seen) {
        let Shared { store, endpoint, .. } = &*self.shared;
        let is_new = |progress: &&Payload| seen.progress.as_ref().is_none_or(|seen| seen.get() != progress.get());
        if let Some(progress) = job.progress().filter(is_new).cloned() {
            self.patiently(|| store.progress(endpoint, OVERFLOW, &self.job, Some(Arc::clone(&progress)))).await;
            seen.progress = Some(progress);
        }
    }

    /// Reports the end of the job, after its last stream items.
    async fn finish(&self, far_id: &str, job: FarJob) -> Result<Departure, FarError> {
        loop {
            match self.shared.far.stream(far_id).await {
                Ok(reply) if reply.stream.is_empty() => break,
                Ok(reply) => self.pass_items(reply).await,
                // Its record has expired, or it has no stream.
                Err(FarError::NotFound | FarError::Refused { status: 400, .. }) => break,
                Err(error) => return Err(error),
            };
        }
        let execution = job.execution;
        self.begin(execution.unwrap_or_default()).await;
        Ok(self.end(job.outcome(), execution).await)
    }

    async fn end(&self, mut outcome: Outcome, execution: Option<Duration>) -> Departure {
        let Shared { store, endpoint, settings, counts, .. } = &*self.shared;
        let has_failed = outcome.ending.error.is_some();
        let ran = execution.unwrap_or_else(|| self.ran_for());
        outcome.ending.cost = outcome.ending.cost.or_else(|| settings.price.and_then(|price| price.cost(ran)));
        let dollars = outcome.ending.cost.as_ref().map(dollars).unwrap_or_default();
        if self.patiently(|| store.finish(endpoint, OVERFLOW, &self.job, outcome.clone())).await.is_none() {
            return How::Left.into();
        }
        counts.note(|totals| {
            *(if has_failed { &mut totals.failed } else { &mut totals.completed }) += 1;
            totals.dollars += dollars;
        });
        Departure { how: How::Ended, dollars, cancel: None }
    }

    async fn begin(&self, ago: Duration) {
        let Shared { store, endpoint, .. } = &*self.shared;
        if self.begun.set(Instant::now()).is_ok() {
            self.patiently(|| store.begun_elsewhere(endpoint, &self.job, ago)).await;
        }
    }

    fn ran_for(&self) -> Duration {
        self.begun.get().map(Instant::elapsed).unwrap_or_default()
    }

    /// Puts the job back to its place in the queue.
    async fn give_back(&self, why: Why) -> Departure {
        let Shared { store, endpoint, counts, .. } = &*self.shared;
        let ids = [Arc::clone(&self.job)];
        if self.patiently(|| store.hand_back(endpoint, OVERFLOW, &ids)).await.is_some_and(|returned| returned > 0) {
            counts.note(|totals| totals.returned += 1);
        }
        How::Returned(why).into()
    }

    /// Gives back a job that the far endpoint had accepted. One that only waited there is not to blame.
    async fn lose(&self, far_id: &str, seen: &Seen) -> Departure {
        let why = if self.begun.get().is_some() { Why::Lost } else { Why::Outage };
        Departure { cancel: Some(self.to_cancel(far_id, !seen.items)), ..self.give_back(why).await }
    }

    fn stopped(&self, far_id: &str) -> Departure {
        self.shared.counts.note(|totals| totals.stopped += 1);
        Departure { cancel: Some(self.to_cancel(far_id, false)), ..How::Stopped.into() }
    }

    fn to_cancel(&self, far_id: &str, takes_result: bool) -> ToCancel {
        ToCancel { far_id: far_id.to_owned(), takes_result, begun: self.begun.get().copied(), is_paid: false }
    }

    async fn left(&self, far_id: &str) -> Departure {
        let Shared { endpoint, far, resumes, .. } = &*self.shared;
        if !*resumes && let Err(error) = far.cancel(far_id, Some(LAST_CANCEL_TIME)).await {
            tracing::warn!(%endpoint, job = %self.job, far_id, %error, "A job could not be cancelled at the overflow endpoint, and runs there to its end.");
        }
        How::Left.into()
    }

    /// As the method of [`Shared`], for this job.
    async fn patiently<T, F>(&self, operation: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.shared.patiently(&self.job, &self.leave, operation).await
    }
}
