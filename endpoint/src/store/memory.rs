//! The store that lives and dies with the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::watchers::Watchers;
use super::{
    Assignment, Effect, Health, Heartbeat, JobFilter, JobId, JobRecord, JobRow, JobView, Limits, Load, NewJob, Outcome,
    Payload, Queue, Seen, Status, Store, StoreError, Timestamp, Webhook, WebhookQueue, WorkerEvent, WorkerView,
};

/// Endpoint ids in use at once.
const MAX_ENDPOINTS: usize = 1000;

/// How long the poll of a worker that gets no jobs is held. Short, because such a worker waits for it before it ends.
const REFUSED_HOLD: Duration = Duration::from_secs(5);

/// All endpoints, in memory.
#[derive(Debug)]
pub struct MemoryStore {
    limits: Limits,
    origin: Instant,
    started: SystemTime,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
    webhooks: WebhookQueue,
    leases: HashMap<String, Duration>,
}

impl MemoryStore {
    /// An empty store. Must be used inside a tokio runtime.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            origin: Instant::now(),
            started: SystemTime::now(),
            endpoints: Mutex::default(),
            webhooks: WebhookQueue::default(),
            leases: HashMap::new(),
        }
    }

    /// Gives single endpoints a lease of their own, by endpoint id.
    #[must_use]
    pub fn with_leases(self, leases: HashMap<String, Duration>) -> Self {
        Self { leases, ..self }
    }

    /// Tells `webhooks` of jobs whose end is to be reported.
    #[must_use]
    pub fn with_webhooks(self, webhooks: WebhookQueue) -> Self {
        Self { webhooks, ..self }
    }

    fn find(&self, id: &str) -> Option<Arc<Endpoint>> {
        lock(&self.endpoints).get(id).map(Arc::clone)
    }

    fn find_job_endpoint(&self, id: &str) -> Result<Arc<Endpoint>, StoreError> {
        self.find(id).ok_or(StoreError::JobNotFound)
    }

    /// The endpoint, created on first use.
    fn open(&self, id: &str) -> Result<Arc<Endpoint>, StoreError> {
        let mut endpoints = lock(&self.endpoints);
        if let Some(endpoint) = endpoints.get(id) {
            return Ok(Arc::clone(endpoint));
        }
        if endpoints.len() >= MAX_ENDPOINTS {
            return Err(StoreError::TooManyEndpoints);
        }
        let limits = Limits { lease: self.leases.get(id).copied().unwrap_or(self.limits.lease), ..self.limits };
        let endpoint = Arc::new(Endpoint::new(id, limits, self.origin, self.webhooks.clone()));
        tokio::spawn(run_timers(Arc::downgrade(&endpoint), Arc::clone(&endpoint.timer)));
        endpoints.insert(id.to_owned(), Arc::clone(&endpoint));
        Ok(endpoint)
    }
}

/// One endpoint's state machine and those who wait for it.
#[derive(Debug)]
struct Endpoint {
    id: String,
    webhooks: WebhookQueue,
    origin: Instant,
    queue: Mutex<Queue>,
    jobs_waiting: Notify,
    job_readers: Watchers,
    stop_polls: Watchers,
    supervisors: Watchers,
    timer: Arc<Notify>,
}

impl Endpoint {
    fn new(id: &str, limits: Limits, origin: Instant, webhooks: WebhookQueue) -> Self {
        Self {
            id: id.to_owned(),
            webhooks,
            origin,
            queue: Mutex::new(Queue::new(limits)),
            jobs_waiting: Notify::new(),
            job_readers: Watchers::default(),
            stop_polls: Watchers::default(),
            supervisors: Watchers::default(),
            timer: Arc::default(),
        }
    }

    /// Runs one operation at the current time and performs what it caused.
    fn with<T>(&self, operation: impl FnOnce(&mut Queue, Timestamp) -> T) -> T {
        let (result, effects, sooner) = {
            let mut queue = lock(&self.queue);
            let now = self.origin.elapsed();
            let before = queue.next_deadline();
            queue.tick(now);
            let result = operation(&mut queue, now);
            let after = queue.next_deadline();
            let sooner = after.is_some_and(|after| before.is_none_or(|before| after < before));
            (result, queue.take_effects(), sooner)
        };
        if sooner {
            self.timer.notify_one();
        }
        for effect in effects {
            self.perform(&effect);
        }
        result
    }

    fn perform(&self, effect: &Effect) {
        match effect {
            Effect::JobWaiting => self.jobs_waiting.notify_one(),
            Effect::JobChanged(id) => self.job_readers.wake(id),
            Effect::StopWaiting(worker) => self.stop_polls.wake(worker),
            Effect::WorkerRecycled(worker) => self.supervisors.wake(worker),
            Effect::WebhookDue(id) => self.webhooks.push(&self.id, id),
            Effect::JobFinished(id, status) => tracing::info!(job = %id, status = status.name(), "job finished"),
        }
    }

    async fn take(&self, worker: &str, max: usize, deadline: Instant) -> Vec<Assignment> {
        loop {
            let mut woken = std::pin::pin!(self.jobs_waiting.notified());
            // Registers before the look into the queue, so that a job submitted in between wakes this poll.
            woken.as_mut().enable();
            let (taken, eligible) = self.with(|queue, now| (queue.take(now, worker, max), queue.is_eligible(worker)));
            if !taken.is_empty() {
                return taken;
            }
            if !eligible {
                // Its wake-up belongs to another poll. Held all the same: an empty answer is followed by the next poll.
                if self.with(|queue, _| queue.has_waiting()) {
                    self.jobs_waiting.notify_one();
                }
                sleep_until(deadline.min(Instant::now() + REFUSED_HOLD)).await;
                return Vec::new();
            }
            if timeout_at(deadline, woken).await.is_err() {
                return Vec::new();
            }
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.timer.notify_one();
    }
}

/// Performs what is due, for as long as the endpoint exists.
async fn run_timers(endpoint: Weak<Endpoint>, timer: Arc<Notify>) {
    loop {
        let next = {
            let Some(endpoint) = endpoint.upgrade() else { return };
            endpoint.with(|queue, _| queue.next_deadline()).map(|at| endpoint.origin + at)
        };
        match next {
            Some(next) => {
                let _ = timeout_at(next, timer.notified()).await;
            }
            None => timer.notified().await,
        }
    }
}

/// A poll that is held open; tells the state machine when it ends, however it ends.
struct Poll<'a> {
    endpoint: &'a Endpoint,
    worker: &'a str,
}

impl<'a> Poll<'a> {
    fn start(endpoint: &'a Endpoint, worker: &'a str) -> Self {
        endpoint.with(|queue, now| queue.poll_started(now, worker));
        Self { endpoint, worker }
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        self.endpoint.with(|queue, now| queue.poll_ended(now, self.worker));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Store for MemoryStore {
    async fn submit(&self, endpoint: &str, job: NewJob) -> Result<JobView, StoreError> {
        self.open(endpoint)?.with(|queue, now| queue.submit(now, job))
    }

    async fn view(&self, endpoint: &str, id: &str, ttl: Option<Duration>) -> Result<JobView, StoreError> {
        self.find_job_endpoint(endpoint)?.with(|queue, now| {
            if let Some(ttl) = ttl {
                queue.shorten(now, id, ttl);
            }
            queue.view(id).ok_or(StoreError::JobNotFound)
        })
    }

    async fn wait_finished(&self, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let deadline = Instant::now() + wait;
        let mut latest = None;
        let look = || match endpoint.with(|queue, _| queue.view(id)) {
            Some(view) if !view.status.is_terminal() => {
                latest = Some(view);
                None
            }
            Some(view) => Some(Ok(view)),
            None => Some(Err(())),
        };
        let finished = endpoint.job_readers.wait(id, deadline, look).await;
        match (finished, latest) {
            (Some(Ok(view)), _) | (None, Some(view)) => Ok(view),
            (Some(Err(())), Some(view)) => Ok(JobView { status: Status::TimedOut, ..view }),
            (_, None) => Err(StoreError::JobNotFound),
        }
    }

    async fn drain(&self, endpoint: &str, id: &str, wait: Duration) -> Result<(Status, Vec<Payload>), StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let deadline = Instant::now() + wait;
        let mut latest = Status::InQueue;
        let look = || match endpoint.with(|queue, _| queue.drain(id)) {
            Ok((status, items)) if items.is_empty() && !status.is_terminal() => {
                latest = status;
                None
            }
            drained => Some(drained),
        };
        let drained = endpoint.job_readers.wait(id, deadline, look).await;
        drained.unwrap_or_else(|| Ok((latest, Vec::new())))
    }

    async fn cancel(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
        self.find_job_endpoint(endpoint)?.with(|queue, now| queue.cancel(now, id))
    }

    async fn retry(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
        self.find_job_endpoint(endpoint)?.with(|queue, now| queue.retry(now, id))
    }

    async fn purge(&self, endpoint: &str) -> usize {
        self.find(endpoint).map_or(0, |endpoint| endpoint.with(|queue, now| queue.purge(now)))
    }

    async fn pending(&self, endpoint: &str, max: usize) -> Vec<JobView> {
        self.find(endpoint).map_or_else(Vec::new, |endpoint| endpoint.with(|queue, _| queue.pending(max)))
    }

    async fn health(&self, endpoint: &str) -> Health {
        self.find(endpoint).map_or_else(Health::default, |endpoint| endpoint.with(|queue, now| queue.health(now)))
    }

    async fn load(&self, endpoint: &str) -> Load {
        self.find(endpoint).map_or_else(Load::default, |endpoint| endpoint.with(|queue, now| queue.load(now)))
    }

    async fn webhook(&self, endpoint: &str, id: &str) -> Option<Webhook> {
        self.find(endpoint)?.with(|queue, _| queue.webhook(id))
    }

    async fn take(
        &self,
        endpoint: &str,
        worker: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Assignment>, StoreError> {
        let endpoint = self.open(endpoint)?;
        let _poll = Poll::start(&endpoint, worker);
        Ok(endpoint.take(worker, max, Instant::now() + wait).await)
    }

    async fn give_back(&self, endpoint: &str, worker: &str, id: &str, attempt: u32) {
        if let Some(endpoint) = self.find(endpoint) {
            endpoint.with(|queue, _| queue.give_back(worker, id, attempt));
        }
    }

    async fn progress(&self, endpoint: &str, worker: &str, id: &str, output: Option<Payload>) {
        if let Some(endpoint) = self.find(endpoint) {
            endpoint.with(|queue, now| queue.progress(now, worker, id, output));
        }
    }

    async fn chunk(&self, endpoint: &str, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let Some(endpoint) = self.find(endpoint) else { return Ok(()) };
        endpoint.with(|queue, now| queue.chunk(now, worker, id, item))
    }

    async fn finish(&self, endpoint: &str, worker: &str, id: &str, outcome: Outcome) {
        if let Some(endpoint) = self.find(endpoint) {
            endpoint.with(|queue, now| queue.finish(now, worker, id, outcome));
        }
    }

    async fn heartbeat(&self, endpoint: &str, worker: &str, heartbeat: Heartbeat) -> Result<(), StoreError> {
        self.open(endpoint)?.with(|queue, now| queue.heartbeat(now, worker, &heartbeat));
        Ok(())
    }

    async fn stops(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<Vec<JobId>, StoreError> {
        let endpoint = self.open(endpoint)?;
        let look = || Some(endpoint.with(|queue, _| queue.take_stops(worker))).filter(|stops| !stops.is_empty());
        Ok(endpoint.stop_polls.wait(worker, Instant::now() + wait, look).await.unwrap_or_default())
    }

    async fn worker_event(&self, endpoint: &str, worker: &str, event: WorkerEvent) -> Result<(), StoreError> {
        self.open(endpoint)?.with(|queue, now| queue.worker_event(now, worker, event));
        Ok(())
    }

    async fn recycled(&self, endpoint: &str, worker: &str, wait: Duration) -> bool {
        let Ok(endpoint) = self.open(endpoint) else { return false };
        let look = || endpoint.with(|queue, _| queue.is_recycled(worker)).then_some(());
        endpoint.supervisors.wait(worker, Instant::now() + wait, look).await.is_some()
    }

    fn origin(&self) -> SystemTime {
        self.started
    }

    async fn endpoints(&self) -> Vec<String> {
        let mut ids: Vec<_> = lock(&self.endpoints).keys().cloned().collect();
        ids.sort_unstable();
        ids
    }

    async fn list(&self, endpoint: &str, filter: &JobFilter) -> Vec<JobRow> {
        self.find(endpoint).map_or_else(Vec::new, |endpoint| endpoint.with(|queue, _| queue.list(filter)))
    }

    async fn inspect(&self, endpoint: &str, id: &str, seen: Seen, wait: Duration) -> Result<JobRecord, StoreError> {
        let endpoint = self.find_job_endpoint(endpoint)?;
        let mut latest = None;
        let look = || match endpoint.with(|queue, _| queue.inspect(id, seen)) {
            Some(record) if record.revision == seen.revision && record.items.is_empty() => {
                latest = Some(record);
                None
            }
            other => Some(other),
        };
        let found = endpoint.job_readers.wait(id, Instant::now() + wait, look).await;
        found.unwrap_or(latest).ok_or(StoreError::JobNotFound)
    }

    async fn workers(&self, endpoint: &str, max: usize) -> Vec<WorkerView> {
        self.find(endpoint).map_or_else(Vec::new, |endpoint| endpoint.with(|queue, now| queue.workers(now, max)))
    }
}
