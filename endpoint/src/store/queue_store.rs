//! The store around the state machine: time, waiting, and handing changes to a [`Backing`].

mod batches;
mod endpoint;
mod endpoints;
mod operations;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use endpoint::{Endpoint, Poll};
use endpoints::Endpoints;

use super::Store;
use super::backing::{Backing, InMemory, Restored};
use super::clock::{Clock, Timestamp};
use super::counts::{Health, Observation};
use super::ending::Outcome;
use super::error::StoreError;
use super::payload::{Content, Payload};
use super::queue::{Mark, Queue, Snapshot};
use super::request::{JobId, NewJob, Request};
use super::setup::Setup;
use super::status::Status;
use super::views::{
    CancelElsewhere, HistoryPage, HistoryQuery, JobDetails, JobElsewhere, JobFilter, JobRow, JobView, Load, Overdue,
    Seen, TakenJob, Webhook, WorkerView,
};
use super::workers::{Heartbeat, WorkerEvent};

/// Jobs purged at once. Other requests get a turn in between.
const PURGE_STEP: usize = 1000;

/// The store in memory: its jobs end with the process.
pub type MemoryStore = QueueStore<InMemory>;

/// All endpoints: a state machine for each, and a backing that all of them share.
pub struct QueueStore<B: Backing> {
    setup: Setup,
    clock: Clock,
    backing: Arc<B>,
    endpoints: Mutex<Endpoints<B>>,
}

impl MemoryStore {
    /// An empty store. Must be used inside a tokio runtime.
    #[must_use]
    pub fn new(setup: impl Into<Setup>) -> Self {
        Self::with(setup.into(), Clock::start(), InMemory, Vec::new())
    }
}

impl<B: Backing> QueueStore<B> {
    /// A store with what is left from earlier. Must be used inside a tokio runtime.
    pub(crate) fn with(setup: Setup, clock: Clock, backing: B, restored: Vec<Restored<B::Content>>) -> Self {
        let backing = Arc::new(backing);
        let endpoints = Endpoints::open(&setup, clock, &backing, restored);
        Self { setup, clock, backing, endpoints: Mutex::new(endpoints) }
    }

    fn find(&self, name: &str) -> Option<Arc<Endpoint<B>>> {
        self.endpoints.lock().get(name)
    }

    fn find_job_endpoint(&self, name: &str) -> Result<Arc<Endpoint<B>>, StoreError> {
        self.find(name).ok_or(StoreError::JobNotFound)
    }

    /// The endpoint, created on first use.
    fn endpoint(&self, name: &str) -> Result<Arc<Endpoint<B>>, StoreError> {
        self.endpoints.lock().get_or_create(name, &self.setup, self.clock, &self.backing)
    }

    /// Runs an operation whose outcome must last; returns once it does.
    async fn commit<T: Send>(
        &self,
        endpoint: &Endpoint<B>,
        operation: impl FnOnce(&mut Queue<B::Content>, Timestamp) -> T + Send,
    ) -> Result<T, StoreError> {
        self.backing.ready()?;
        let (result, mark) = endpoint.with(operation);
        self.backing.settled(mark).await?;
        Ok(result)
    }

    /// The view with its output, once what it shows is there to stay.
    async fn settled_view(
        &self,
        endpoint: &Endpoint<B>,
        view: JobView<B::Content>,
        mark: Mark,
    ) -> Result<JobView, StoreError> {
        self.backing.settled(mark).await?;
        self.with_output(endpoint, view).await
    }

    /// The job as it is, once that is on disk. While the disk takes no changes: as it was written down last, so that what was
    /// acknowledged stays readable; `None` for a job that was never written down, and so never acknowledged.
    async fn durable(
        &self,
        endpoint: &Endpoint<B>,
        snapshot: Snapshot<B::Content>,
    ) -> Result<Option<JobView<B::Content>>, StoreError> {
        if self.backing.settled(snapshot.mark).await.is_ok() {
            return Ok(Some(snapshot.view));
        }
        self.backing.stored(endpoint.key, snapshot.number).await
    }

    /// The same with its output.
    async fn durable_view(
        &self,
        endpoint: &Endpoint<B>,
        snapshot: Snapshot<B::Content>,
    ) -> Result<JobView, StoreError> {
        let view = self.durable(endpoint, snapshot).await?;
        let view = view.ok_or_else(|| StoreError::Unavailable("the job is not written down yet".into()))?;
        self.with_output(endpoint, view).await
    }

    /// Lines of a list as they are on disk, without outputs.
    async fn durable_rows(
        &self,
        endpoint: &Endpoint<B>,
        found: Vec<(Snapshot<B::Content>, Timestamp)>,
    ) -> Result<Vec<JobRow>, StoreError> {
        let mut rows = Vec::with_capacity(found.len());
        for (snapshot, submitted) in found {
            if let Some(view) = self.durable(endpoint, snapshot).await? {
                rows.push(JobRow { view: view.and_then(|_| None), submitted });
            }
        }
        Ok(rows)
    }

    async fn with_output(&self, endpoint: &Endpoint<B>, view: JobView<B::Content>) -> Result<JobView, StoreError> {
        let loaded = match view.ending.output.clone() {
            None => None,
            Some(output) => self.loaded(endpoint, output).await?,
        };
        Ok(view.and_then(|_| loaded))
    }

    /// The text of one payload; `None` when its record has expired meanwhile.
    async fn loaded(&self, endpoint: &Endpoint<B>, content: B::Content) -> Result<Option<Payload>, StoreError> {
        Ok(self.backing.load(endpoint.key, vec![content]).await?.into_iter().flatten().next())
    }

    /// The requests with the text of their payloads; `None` for a record that has expired meanwhile.
    async fn loaded_requests(
        &self,
        endpoint: &Endpoint<B>,
        requests: Vec<Request<B::Content>>,
    ) -> Result<Vec<Option<Request>>, StoreError> {
        let contents = requests.iter().flat_map(Request::payloads).cloned().collect();
        let mut loaded = self.backing.load(endpoint.key, contents).await?.into_iter();
        Ok(requests.into_iter().map(|request| request.loaded(&mut loaded)).collect())
    }

    async fn settled_assignments(
        &self,
        endpoint: &Endpoint<B>,
        taken: Vec<TakenJob<B::Content>>,
        mark: Mark,
    ) -> Result<Vec<TakenJob>, StoreError> {
        self.backing.settled(mark).await?;
        let requests = taken.iter().map(|job| job.request.clone()).collect();
        let loaded = self.loaded_requests(endpoint, requests).await?;
        let with_text = |(job, request): (TakenJob<B::Content>, Option<Request>)| {
            let TakenJob { id, attempt, handover, submitted, delay, .. } = job;
            request.map(|request| TakenJob { id, attempt, handover, submitted, delay, request })
        };
        Ok(taken.into_iter().zip(loaded).filter_map(with_text).collect())
    }
}

fn with_snapshots<P: Content>(queue: &Queue<P>, rows: Vec<JobRow<P>>) -> Vec<(Snapshot<P>, Timestamp)> {
    let with_snapshot = |row: JobRow<P>| Some((queue.snapshot(&row.view.id)?, row.submitted));
    rows.into_iter().filter_map(with_snapshot).collect()
}

#[async_trait]
impl<B: Backing> Store for QueueStore<B> {
    async fn submit(&self, endpoint: &str, job: NewJob) -> Result<JobView, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        self.backing.ready()?;
        let job = NewJob { id: job.id, request: job.request.map(|_, payload| B::content(payload)) };
        let (view, mark) = endpoint.with(|queue, now| queue.submit(now, job));
        self.settled_view(&endpoint, view?, mark).await
    }

    async fn view(&self, endpoint: &str, id: &str, ttl: Option<Duration>) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let (snapshot, _) = endpoint.with(|queue, _| queue.snapshot(id));
        let view = self.durable_view(&endpoint, snapshot.ok_or(StoreError::JobNotFound)?).await?;
        // Not before the result is read, nor when it has come meanwhile.
        if let Some(ttl) = ttl.filter(|_| view.status.is_terminal()) {
            endpoint.with(|queue, now| queue.shorten(now, id, ttl));
        }
        Ok(view)
    }

    async fn wait_finished(&self, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let deadline = Instant::now() + wait;
        let mut latest = None;
        let look = || match endpoint.with(|queue, _| queue.snapshot(id)).0 {
            Some(snapshot) if !snapshot.view.status.is_terminal() => {
                latest = Some(snapshot);
                None
            }
            found => Some(found),
        };
        let finished = endpoint.wakers.job_readers.wait(id, deadline, look).await;
        let snapshot = match (finished, latest) {
            (Some(Some(seen)), _) | (None, Some(seen)) => seen,
            (Some(None), Some(last)) => Snapshot { view: last.view.expired(), ..last },
            (_, None) => return Err(StoreError::JobNotFound),
        };
        self.durable_view(&endpoint, snapshot).await
    }

    async fn drain(&self, endpoint: &str, id: &str, wait: Duration) -> Result<(Status, Vec<Payload>), StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let deadline = Instant::now() + wait;
        loop {
            let look = || endpoint.with(|queue, _| queue.has_stream_news(id).then(|| queue.mark_of(id))).0;
            let news = endpoint.wakers.job_readers.wait(id, deadline, look).await;
            if let Some(mark) = news {
                self.backing.settled(mark).await?;
            }
            // Nothing may be awaited from here on: a request that ends here would lose the items.
            let (drained, _) = endpoint.with(|queue, _| queue.drain(id));
            match drained {
                // Another reader was faster.
                Ok((status, items)) if items.is_empty() && !status.is_terminal() && news.is_some() => {}
                drained => return drained,
            }
        }
    }

    async fn cancel(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        self.backing.ready()?;
        let (view, mark) = endpoint.with(|queue, now| queue.cancel(now, id));
        self.settled_view(&endpoint, view?, mark).await
    }

    async fn retry(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        self.backing.ready()?;
        let (view, mark) = endpoint.with(|queue, now| queue.retry(now, id));
        self.settled_view(&endpoint, view?, mark).await
    }

    async fn purge(&self, endpoint: &str) -> Result<usize, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(0) };
        let (mut left, _) = endpoint.with(|queue, now| queue.health(now).in_queue);
        let mut removed = 0;
        while left > 0 {
            let some = self.commit(&endpoint, |queue, now| queue.purge(now, left.min(PURGE_STEP))).await?;
            if some == 0 {
                break;
            }
            removed += some;
            left -= some;
        }
        Ok(removed)
    }

    async fn pending(&self, endpoint: &str, max: usize) -> Result<Vec<JobView>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        let (snapshots, _) = endpoint.with(|queue, _| queue.snapshots(queue.pending(max)));
        let mut pending = Vec::with_capacity(snapshots.len());
        for snapshot in snapshots {
            if let Some(view) = self.durable(&endpoint, snapshot).await? {
                pending.push(self.with_output(&endpoint, view).await?);
            }
        }
        Ok(pending)
    }

    async fn health(&self, endpoint: &str) -> Result<Health, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Health::default()) };
        Ok(endpoint.with(|queue, now| queue.health(now)).0)
    }

    async fn load(&self, endpoint: &str) -> Result<Load, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Load::default()) };
        Ok(endpoint.with(|queue, now| queue.load(now)).0)
    }

    async fn webhook(&self, endpoint: &str, id: &str) -> Result<Option<Webhook>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(None) };
        let (found, _) = endpoint.with(|queue, _| Some((queue.webhook(id)?, queue.mark_of(id))));
        let Some((found, mark)) = found else { return Ok(None) };
        let Webhook { url, job, request, end_number } = found;
        let job = self.settled_view(&endpoint, job, mark).await?;
        let request = self.loaded_requests(&endpoint, vec![request]).await?.into_iter().flatten().next();
        Ok(request.map(|request| Webhook { url, job, request, end_number }))
    }

    async fn take(
        &self,
        endpoint: &str,
        worker: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<TakenJob>, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        self.backing.ready()?;
        let poll = Poll::for_jobs(&endpoint, worker);
        let mut taken = endpoint.take(worker, max, Instant::now() + wait).await;
        poll.answered();
        if taken.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = self.settled_assignments(&endpoint, taken.jobs.clone(), taken.mark).await?;
        taken.jobs.clear();
        Ok(jobs)
    }

    async fn return_unsent(&self, endpoint: &str, worker: &str, id: &str, attempt: u32) -> Result<(), StoreError> {
        if let Some(endpoint) = self.find(endpoint) {
            endpoint.with(|queue, _| queue.return_unsent(worker, id, attempt));
        }
        Ok(())
    }

    async fn progress(
        &self,
        endpoint: &str,
        worker: &str,
        id: &str,
        output: Option<Payload>,
    ) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.progress(now, worker, id, output.map(B::content))).await
    }

    async fn stream_item(&self, endpoint: &str, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.stream_item(now, worker, id, item)).await?
    }

    async fn finish(&self, endpoint: &str, worker: &str, id: &str, outcome: Outcome) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.finish(now, worker, id, outcome.map(B::content))).await
    }

    async fn heartbeat(&self, endpoint: &str, worker: &str, heartbeat: Heartbeat) -> Result<Duration, StoreError> {
        Ok(self.endpoint(endpoint)?.with(|queue, now| queue.heartbeat(now, worker, &heartbeat)).0)
    }

    async fn stops(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<Vec<JobId>, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        let poll = Poll::for_stops(&endpoint, worker);
        let look = || Some(endpoint.with(|queue, _| queue.take_stops(worker)).0).filter(|stops| !stops.is_empty());
        let stops = endpoint.wakers.stop_polls.wait(worker, Instant::now() + wait, look).await;
        poll.answered();
        Ok(stops.unwrap_or_default())
    }

    async fn admit(&self, endpoint: &str, worker: &str, instance: Option<&str>) -> Result<(), StoreError> {
        self.endpoint(endpoint)?.with(|queue, now| queue.admit(now, worker, instance)).0
    }

    async fn hand_back(&self, endpoint: &str, worker: &str, ids: &[JobId]) -> Result<usize, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(0) };
        self.commit(&endpoint, |queue, now| queue.hand_back(now, worker, ids)).await
    }

    async fn goodbye(&self, endpoint: &str, worker: &str) -> Result<(), StoreError> {
        if let Some(endpoint) = self.find(endpoint) {
            endpoint.with(|queue, _| queue.goodbye(worker));
        }
        Ok(())
    }

    async fn take_overdue(&self, endpoint: &str, overdue: &Overdue) -> Result<Vec<TakenJob>, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        self.backing.ready()?;
        let mut taken = endpoint.take_overdue(overdue);
        if taken.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = self.settled_assignments(&endpoint, taken.jobs.clone(), taken.mark).await?;
        taken.jobs.clear();
        Ok(jobs)
    }

    async fn accepted_elsewhere(&self, endpoint: &str, id: &str, far_id: &str) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, _| queue.accepted_elsewhere(id, far_id)).await
    }

    async fn begun_elsewhere(&self, endpoint: &str, id: &str, ago: Duration) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.begun_elsewhere(now, id, ago)).await
    }

    async fn elsewhere(&self, endpoint: &str) -> Result<Vec<JobElsewhere>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        Ok(endpoint.with(|queue, _| queue.elsewhere()).0)
    }

    async fn taken_elsewhere(&self, endpoint: &str, id: &str) -> Result<Option<TakenJob>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(None) };
        let (taken, mark) = endpoint.with(|queue, _| queue.taken_elsewhere(id));
        Ok(self.settled_assignments(&endpoint, taken.into_iter().collect(), mark).await?.pop())
    }

    async fn is_overdue(&self, endpoint: &str, overdue: &Overdue) -> Result<bool, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(false) };
        Ok(endpoint.with(|queue, now| queue.is_overdue(now, overdue)).0)
    }

    async fn cancels_elsewhere(&self, endpoint: &str) -> Result<Vec<CancelElsewhere>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        Ok(endpoint.with(|queue, _| queue.cancels_elsewhere()).0)
    }

    async fn cancelled_elsewhere(&self, endpoint: &str, id: &str, far_id: &str) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, _| queue.cancelled_elsewhere(id, far_id)).await
    }

    async fn worker_event(&self, endpoint: &str, worker: &str, event: WorkerEvent) -> Result<(), StoreError> {
        self.endpoint(endpoint)?.with(|queue, now| queue.worker_event(now, worker, event));
        Ok(())
    }

    async fn refreshing(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<bool, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        let look = || endpoint.with(|queue, _| queue.is_refreshing(worker)).0.then_some(());
        Ok(endpoint.wakers.supervisors.wait(worker, Instant::now() + wait, look).await.is_some())
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.backing.ready()
    }

    async fn observe(&self, endpoint: &str) -> Result<Observation, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Observation::default()) };
        Ok(endpoint.with(|queue, now| queue.observe(now)).0)
    }

    async fn endpoints(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.endpoints.lock().names())
    }

    async fn list(&self, endpoint: &str, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        let (found, _) = endpoint.with(|queue, _| with_snapshots(queue, queue.list(filter)));
        self.durable_rows(&endpoint, found).await
    }

    async fn search(&self, endpoint: &str, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(HistoryPage { rows: Vec::new(), next: None }) };
        let ((found, next), _) = endpoint.with(|queue, _| {
            let HistoryPage { rows, next } = queue.search(query);
            (with_snapshots(queue, rows), next)
        });
        Ok(HistoryPage { rows: self.durable_rows(&endpoint, found).await?, next })
    }

    async fn inspect(&self, endpoint: &str, id: &str, seen: Seen, wait: Duration) -> Result<JobDetails, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let mut latest = None;
        let look = || match endpoint.with(|queue, _| (queue.inspect(id, seen), queue.mark_of(id))).0 {
            (Some(details), mark) if details.revision == seen.revision && details.items.is_empty() => {
                latest = Some((details, mark));
                None
            }
            (Some(details), mark) => Some(Some((details, mark))),
            (None, _) => Some(None),
        };
        let found = endpoint.wakers.job_readers.wait(id, Instant::now() + wait, look).await;
        let Some((details, mark)) = found.unwrap_or(latest) else { return Err(StoreError::JobNotFound) };
        let JobDetails { view, revision, input, history, first_item, items } = details;
        let view = self.settled_view(&endpoint, view, mark).await?;
        let input = self.loaded(&endpoint, input).await?.ok_or(StoreError::JobNotFound)?;
        Ok(JobDetails { view, revision, input, history, first_item, items })
    }

    async fn workers(&self, endpoint: &str, max: usize) -> Result<Vec<WorkerView>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        Ok(endpoint.with(|queue, now| queue.workers(now, max)).0)
    }
}
