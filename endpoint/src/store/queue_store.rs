//! The store around the state machine: time, waiting, and handing changes to a [`Backing`].

mod endpoint;
mod endpoints;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use endpoint::{Endpoint, Poll};
use endpoints::Endpoints;

use super::backing::{Backing, Clock, InMemory, Mark, Restored};
use super::{
    Assignment, Health, Heartbeat, JobFilter, JobId, JobRecord, JobRow, JobView, Load, NewJob, Observation, Outcome,
    Payload, Queue, Seen, Setup, Status, Store, StoreError, Timestamp, Webhook, WorkerEvent, WorkerView,
};

/// Jobs purged at once. Other requests get a turn in between.
const PURGE_STEP: usize = 1000;

/// The store that lives and dies with the process.
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
        lock(&self.endpoints).get(name)
    }

    fn find_job_endpoint(&self, name: &str) -> Result<Arc<Endpoint<B>>, StoreError> {
        self.find(name).ok_or(StoreError::JobNotFound)
    }

    /// The endpoint, created on first use.
    fn endpoint(&self, name: &str) -> Result<Arc<Endpoint<B>>, StoreError> {
        lock(&self.endpoints).get_or_create(name, &self.setup, self.clock, &self.backing)
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
        let (view, output) = view.take_output();
        let loaded = match output {
            None => Vec::new(),
            Some(output) => self.backing.load(endpoint.key, vec![output]).await?,
        };
        Ok(JobView { output: loaded.into_iter().flatten().next(), ..view })
    }

    async fn settled_assignments(
        &self,
        endpoint: &Endpoint<B>,
        taken: Vec<Assignment<B::Content>>,
        mark: Mark,
    ) -> Result<Vec<Assignment>, StoreError> {
        self.backing.settled(mark).await?;
        let contents =
            taken.iter().flat_map(|job| std::iter::once(&job.input).chain(&job.s3_config)).cloned().collect();
        let mut loaded = self.backing.load(endpoint.key, contents).await?.into_iter();
        let mut jobs = Vec::with_capacity(taken.len());
        for job in taken {
            let input = loaded.next().flatten();
            let s3_config = job.s3_config.and_then(|_| loaded.next().flatten());
            // Without an input the record has expired meanwhile.
            jobs.extend(input.map(|input| Assignment {
                id: job.id,
                attempt: job.attempt,
                input,
                s3_config,
                traceparent: job.traceparent,
                delay: job.delay,
                execution_timeout: job.execution_timeout,
            }));
        }
        Ok(jobs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl<B: Backing> Store for QueueStore<B> {
    async fn submit(&self, endpoint: &str, job: NewJob) -> Result<JobView, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        self.backing.ready()?;
        let (view, mark) = endpoint.with(|queue, now| queue.submit(now, job.map(B::content)));
        self.settled_view(&endpoint, view?, mark).await
    }

    async fn view(&self, endpoint: &str, id: &str, ttl: Option<Duration>) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let (view, mark) = endpoint.with(|queue, now| {
            if let Some(ttl) = ttl {
                queue.shorten(now, id, ttl);
            }
            queue.view(id).ok_or(StoreError::JobNotFound)
        });
        self.settled_view(&endpoint, view?, mark).await
    }

    async fn wait_finished(&self, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let deadline = Instant::now() + wait;
        let mut latest = None;
        let look = || match endpoint.with(|queue, _| queue.view(id)) {
            (Some(view), mark) if !view.status.is_terminal() => {
                latest = Some((view, mark));
                None
            }
            (Some(view), mark) => Some(Ok((view, mark))),
            (None, _) => Some(Err(())),
        };
        let finished = endpoint.wakers.job_readers.wait(id, deadline, look).await;
        let (view, mark) = match (finished, latest) {
            (Some(Ok(seen)), _) | (None, Some(seen)) => seen,
            (Some(Err(())), Some((view, mark))) => (JobView { status: Status::TimedOut, ..view }, mark),
            (_, None) => return Err(StoreError::JobNotFound),
        };
        self.settled_view(&endpoint, view, mark).await
    }

    async fn drain(&self, endpoint: &str, id: &str, wait: Duration) -> Result<(Status, Vec<Payload>), StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let deadline = Instant::now() + wait;
        loop {
            let look = || {
                let (news, mark) = endpoint.with(|queue, _| queue.has_stream_news(id));
                news.then_some(mark)
            };
            let news = endpoint.wakers.job_readers.wait(id, deadline, look).await;
            if let Some(mark) = news {
                self.backing.settled(mark).await?;
            }
            // Nothing may be awaited from here on: the items are in nobody's hands.
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
        let (views, mark) = endpoint.with(|queue, _| queue.pending(max));
        let mut pending = Vec::with_capacity(views.len());
        for view in views {
            pending.push(self.settled_view(&endpoint, view, mark).await?);
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
        let (Some(found), mark) = endpoint.with(|queue, _| queue.webhook(id)) else { return Ok(None) };
        let Webhook { url, job, input, traceparent, ending } = found;
        let job = self.settled_view(&endpoint, job, mark).await?;
        let input = self.backing.load(endpoint.key, vec![input]).await?.into_iter().flatten().next();
        // Without an input the record has expired meanwhile.
        Ok(input.map(|input| Webhook { url, job, input, traceparent, ending }))
    }

    async fn webhook_told(&self, endpoint: &str, id: &str) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, _| queue.webhook_told(id)).await
    }

    async fn take(
        &self,
        endpoint: &str,
        worker: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Assignment>, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        self.backing.ready()?;
        let _poll = Poll::start(&endpoint, worker);
        let mut taken = endpoint.take(worker, max, Instant::now() + wait).await;
        if taken.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = self.settled_assignments(&endpoint, taken.jobs.clone(), taken.mark).await?;
        taken.jobs.clear();
        Ok(jobs)
    }

    async fn give_back(&self, endpoint: &str, worker: &str, id: &str, attempt: u32) -> Result<(), StoreError> {
        if let Some(endpoint) = self.find(endpoint) {
            endpoint.with(|queue, _| queue.give_back(worker, id, attempt));
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

    async fn chunk(&self, endpoint: &str, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.chunk(now, worker, id, item)).await?
    }

    async fn finish(&self, endpoint: &str, worker: &str, id: &str, outcome: Outcome) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        self.commit(&endpoint, |queue, now| queue.finish(now, worker, id, outcome.map(B::content))).await
    }

    async fn heartbeat(&self, endpoint: &str, worker: &str, heartbeat: Heartbeat) -> Result<(), StoreError> {
        self.endpoint(endpoint)?.with(|queue, now| queue.heartbeat(now, worker, &heartbeat));
        Ok(())
    }

    async fn stops(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<Vec<JobId>, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        let look = || Some(endpoint.with(|queue, _| queue.take_stops(worker)).0).filter(|stops| !stops.is_empty());
        Ok(endpoint.wakers.stop_polls.wait(worker, Instant::now() + wait, look).await.unwrap_or_default())
    }

    async fn worker_event(&self, endpoint: &str, worker: &str, event: WorkerEvent) -> Result<(), StoreError> {
        self.endpoint(endpoint)?.with(|queue, now| queue.worker_event(now, worker, event));
        Ok(())
    }

    async fn recycled(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<bool, StoreError> {
        let endpoint = self.endpoint(endpoint)?;
        let look = || endpoint.with(|queue, _| queue.is_recycled(worker)).0.then_some(());
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
        Ok(lock(&self.endpoints).names())
    }

    async fn list(&self, endpoint: &str, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        let (rows, mark) = endpoint.with(|queue, _| queue.list(filter));
        self.backing.settled(mark).await?;
        let without_output = |row: JobRow<_>| JobRow { view: row.view.take_output().0, submitted: row.submitted };
        Ok(rows.into_iter().map(without_output).collect())
    }

    async fn inspect(&self, endpoint: &str, id: &str, seen: Seen, wait: Duration) -> Result<JobRecord, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let mut latest = None;
        let look = || match endpoint.with(|queue, _| queue.inspect(id, seen)) {
            (Some(record), mark) if record.revision == seen.revision && record.items.is_empty() => {
                latest = Some((record, mark));
                None
            }
            (Some(record), mark) => Some(Some((record, mark))),
            (None, _) => Some(None),
        };
        let found = endpoint.wakers.job_readers.wait(id, Instant::now() + wait, look).await;
        let Some((record, mark)) = found.unwrap_or(latest) else { return Err(StoreError::JobNotFound) };
        let view = self.settled_view(&endpoint, record.view, mark).await?;
        let input = self.backing.load(endpoint.key, vec![record.input]).await?.into_iter().flatten().next();
        Ok(JobRecord {
            view,
            revision: record.revision,
            input: input.ok_or(StoreError::JobNotFound)?,
            history: record.history,
            first_item: record.first_item,
            items: record.items,
        })
    }

    async fn workers(&self, endpoint: &str, max: usize) -> Result<Vec<WorkerView>, StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(Vec::new()) };
        Ok(endpoint.with(|queue, now| queue.workers(now, max)).0)
    }
}
