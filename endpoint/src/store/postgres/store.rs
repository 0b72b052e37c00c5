//! The store's operations: which rows each one needs, what the state machine is asked, and how waiting works.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout, timeout_at};

use super::PostgresStore;
use super::local::Local;
use super::poll::{Caller, Taken, payloads};
use super::read::LookedAt;
use super::rows;
use super::work::Need;
use crate::store::Store;
use crate::store::clock::Timestamp;
use crate::store::counts::{DatabaseFigures, Health, Observation};
use crate::store::ending::Outcome;
use crate::store::error::StoreError;
use crate::store::payload::{Filed, Payload};
use crate::store::queue::Queue;
use crate::store::request::{JobId, NewJob};
use crate::store::status::Status;
use crate::store::task::Task;
use crate::store::views::{
    CancelElsewhere, HistoryPage, HistoryQuery, JobDetails, JobElsewhere, JobFilter, JobRow, JobView, Load, Overdue,
    Seen, TakenJob, Webhook, WorkerView,
};
use crate::store::workers::{Heartbeat, OVERFLOW, WorkerEvent};

/// Jobs purged at once. Other requests get a turn in between.
const PURGE_STEP: usize = 1000;

/// How long the end of the program waits for the other replicas to be told.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

impl PostgresStore {
    /// The endpoint, for what needs a job in it: nothing is created.
    pub(super) async fn job_endpoint(&self, endpoint: &str, id: &str) -> Result<Arc<Local>, StoreError> {
        if let Some(local) = self.shared.find(endpoint) {
            return Ok(local);
        }
        match self.shared.look(endpoint, id).await? {
            Some(_) => Ok(self.shared.local(endpoint)),
            None => Err(StoreError::JobNotFound),
        }
    }

    /// Runs an operation on one job.
    pub(super) async fn on_job<T: Send + 'static>(
        &self,
        endpoint: &str,
        id: &str,
        need: Need,
        decide: impl Fn(&mut Queue<Filed>, Timestamp, &str) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let local = self.job_endpoint(endpoint, id).await?;
        let id: JobId = Arc::from(id);
        let need = Need { jobs: vec![Arc::clone(&id)], ..need };
        self.shared.run(&local, need, move |queue, now| decide(queue, now, &id)).await
    }

    async fn note_heartbeat(
        &self,
        endpoint: &str,
        worker: &str,
        caller: Caller,
        heartbeat: Heartbeat,
    ) -> Result<Duration, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let worker: Arc<str> = Arc::from(worker);
        let need = Need {
            jobs: heartbeat.jobs.clone(),
            held: true,
            // A worker that can do nothing gets no more jobs from then on.
            may_be_delayed: !heartbeat.unhealthy,
            ..Need::worker(&worker)
        };
        let noted = self.shared.run(&local, need, move |queue, now| {
            caller.admit(queue, now, &worker)?;
            Ok(queue.heartbeat(now, &worker, &heartbeat))
        });
        noted.await?
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn submit(&self, endpoint: &str, job: NewJob) -> Result<JobView, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let job = NewJob { id: job.id, request: job.request.map(|_, payload| Filed::Fresh(payload)) };
        let keys = job.request.idempotency.iter().map(|idempotency| idempotency.key).collect();
        let shares = vec![(job.request.policy.low_priority, job.request.share.clone())];
        let need = Need { numbers: 1, shares, bounds: true, keys, ..Need::job(&job.id) };
        let submit = move |queue: &mut Queue<Filed>, now| queue.submit(now, job.clone());
        let view = match self.shared.run(&local, need.clone(), submit.clone()).await? {
            Err(StoreError::QueueFull) => {
                let ended = self.shared.look_ended(&local).await?;
                let jobs = need.jobs.iter().cloned().chain(ended).collect();
                self.shared.run(&local, Need { jobs, ..need }, submit).await??
            }
            submitted => submitted?,
        };
        self.shared.with_output(view).await
    }

    async fn view(&self, endpoint: &str, id: &str, ttl: Option<Duration>) -> Result<JobView, StoreError> {
        let view = self.shared.look_view(endpoint, id).await?.ok_or(StoreError::JobNotFound)?;
        let view = self.shared.with_output(view).await?;
        // Not before the result is read, nor when it has come meanwhile.
        if let Some(ttl) = ttl.filter(|_| view.status.is_terminal()) {
            self.on_job(endpoint, id, Need::default(), move |queue, now, id| queue.shorten(now, id, ttl)).await?;
        }
        Ok(view)
    }

    async fn wait_finished(&self, endpoint: &str, id: &str, wait: Duration) -> Result<JobView, StoreError> {
        let local = self.job_endpoint(endpoint, id).await?;
        let deadline = Instant::now() + wait;
        let watch = local.wakers.job_readers.watch(id);
        let mut latest = None;
        let view = loop {
            let mut woken = pin!(watch.notified());
            // Registers before the look, so that a change in between is not missed.
            woken.as_mut().enable();
            match (self.shared.look_view(endpoint, id).await?, latest) {
                (Some(view), _) if view.status.is_terminal() => break view,
                (Some(view), _) => latest = Some(view),
                (None, Some(last)) => break last.expired(),
                (None, None) => return Err(StoreError::JobNotFound),
            }
            if timeout_at(deadline, woken).await.is_err() {
                break latest.ok_or(StoreError::JobNotFound)?;
            }
        };
        self.shared.with_output(view).await
    }

    async fn drain(&self, endpoint: &str, id: &str, wait: Duration) -> Result<(Status, Vec<Payload>), StoreError> {
        let local = self.job_endpoint(endpoint, id).await?;
        let deadline = Instant::now() + wait;
        let watch = local.wakers.job_readers.watch(id);
        let mut is_last = wait.is_zero();
        loop {
            let mut woken = pin!(watch.notified());
            woken.as_mut().enable();
            let need = Need { items: true, ..Need::default() };
            let drained = self.on_job(endpoint, id, need, move |queue, _, id| {
                (is_last || queue.has_stream_news(id)).then(|| queue.drain(id))
            });
            if let Some(drained) = drained.await? {
                return drained;
            }
            is_last = timeout_at(deadline, woken).await.is_err();
        }
    }

    async fn cancel(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
        let view = self.on_job(endpoint, id, Need::default(), |queue, now, id| queue.cancel(now, id)).await??;
        self.shared.with_output(view).await
    }

    async fn retry(&self, endpoint: &str, id: &str) -> Result<JobView, StoreError> {
        let need = Need { numbers: 1, bounds: true, ..Need::default() };
        let view = self.on_job(endpoint, id, need, |queue, now, id| queue.retry(now, id)).await??;
        self.shared.with_output(view).await
    }

    async fn purge(&self, endpoint: &str) -> Result<usize, StoreError> {
        let LookedAt { health, .. } = self.shared.look_health(endpoint).await?;
        let mut left = health.in_queue;
        let mut removed = 0;
        while left > 0 {
            let step = left.min(PURGE_STEP);
            let need = Need { purge: step, held: true, ..Need::worker(OVERFLOW) };
            let local = self.shared.local(endpoint);
            let some = self.shared.run(&local, need, move |queue, now| queue.purge(now, step)).await?;
            if some == 0 {
                break;
            }
            removed += some;
            left = left.saturating_sub(some);
        }
        Ok(removed)
    }

    async fn pending(&self, endpoint: &str, max: usize) -> Result<Vec<JobView>, StoreError> {
        let mut pending = Vec::new();
        for view in self.shared.look_pending(endpoint, max).await? {
            pending.push(self.shared.with_output(view).await?);
        }
        Ok(pending)
    }

    async fn health(&self, endpoint: &str) -> Result<Health, StoreError> {
        Ok(self.shared.look_health(endpoint).await?.health)
    }

    async fn load(&self, endpoint: &str) -> Result<Load, StoreError> {
        self.shared.look_load(endpoint).await
    }

    async fn webhook(&self, endpoint: &str, id: &str) -> Result<Option<Webhook>, StoreError> {
        let found = self.shared.look(endpoint, id).await?.and_then(|queue| queue.webhook(id));
        let Some(Webhook { url, job, request, end_number }) = found else { return Ok(None) };
        let job = self.shared.with_output(job).await?;
        let request = self.shared.with_payloads(vec![request]).await?.into_iter().flatten().next();
        Ok(request.map(|request| Webhook { url, job, request, end_number }))
    }

    async fn admit(&self, endpoint: &str, worker: &str, instance: Option<&str>) -> Result<(), StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        if self.shared.admits_quietly(endpoint, worker, instance).await? {
            return Ok(());
        }
        let (name, instance): (Arc<str>, Option<Arc<str>>) = (Arc::from(worker), instance.map(Arc::from));
        self.shared
            .run(&local, Need::worker(worker), move |queue, now| queue.admit(now, &name, instance.as_deref()))
            .await?
    }

    async fn take(
        &self,
        endpoint: &str,
        worker: &str,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<TakenJob>, StoreError> {
        self.poll_for_jobs(endpoint, worker, Caller::Admitted, max, wait).await
    }

    async fn take_as(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<TakenJob>, StoreError> {
        self.poll_for_jobs(endpoint, worker, Caller::process(instance), max, wait).await
    }

    async fn return_unsent(&self, endpoint: &str, worker: &str, id: &str, attempt: u32) -> Result<(), StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let (worker, id): (Arc<str>, JobId) = (Arc::from(worker), Arc::from(id));
        let need = Need { jobs: vec![Arc::clone(&id)], ..Need::worker(&worker) };
        self.shared.run(&local, need, move |queue, _| queue.return_unsent(&worker, &id, attempt)).await
    }

    async fn hand_back(&self, endpoint: &str, worker: &str, ids: &[JobId]) -> Result<usize, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let (worker, ids): (Arc<str>, Vec<JobId>) = (Arc::from(worker), ids.to_vec());
        let need = Need { jobs: ids.clone(), ..Need::worker(&worker) };
        self.shared.run(&local, need, move |queue, now| queue.hand_back(now, &worker, &ids)).await
    }

    async fn goodbye(&self, endpoint: &str, worker: &str) -> Result<(), StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let worker: Arc<str> = Arc::from(worker);
        self.shared.run(&local, Need::worker(&worker), move |queue, _| queue.goodbye(&worker)).await
    }

    async fn progress(
        &self,
        endpoint: &str,
        worker: &str,
        id: &str,
        output: Option<Payload>,
    ) -> Result<(), StoreError> {
        let worker: Arc<str> = Arc::from(worker);
        let need = Need::worker(&worker);
        ignore_unknown(
            self.on_job(endpoint, id, need, move |queue, now, id| {
                queue.progress(now, &worker, id, output.clone().map(Filed::Fresh));
            })
            .await,
        )
    }

    async fn stream_item(&self, endpoint: &str, worker: &str, id: &str, item: Payload) -> Result<(), StoreError> {
        let worker: Arc<str> = Arc::from(worker);
        let need = Need { bounds: true, ..Need::worker(&worker) };
        let filed = self
            .on_job(endpoint, id, need, move |queue, now, id| queue.stream_item(now, &worker, id, Arc::clone(&item)))
            .await;
        ignore_unknown(filed.and_then(|filed| filed))
    }

    async fn finish(&self, endpoint: &str, worker: &str, id: &str, outcome: Outcome) -> Result<(), StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let (worker, id): (Arc<str>, JobId) = (Arc::from(worker), Arc::from(id));
        let was_not_begun = outcome.not_begun.is_some();
        let need = Need {
            jobs: vec![Arc::clone(&id)],
            held: was_not_begun,
            all_workers: was_not_begun,
            ..Need::worker(&worker)
        };
        let outcome = outcome.map(Filed::Fresh);
        self.shared.run(&local, need, move |queue, now| queue.finish(now, &worker, &id, outcome.clone())).await
    }

    async fn heartbeat(&self, endpoint: &str, worker: &str, heartbeat: Heartbeat) -> Result<Duration, StoreError> {
        self.note_heartbeat(endpoint, worker, Caller::Admitted, heartbeat).await
    }

    async fn heartbeat_as(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
        heartbeat: Heartbeat,
    ) -> Result<Duration, StoreError> {
        self.note_heartbeat(endpoint, worker, Caller::process(instance), heartbeat).await
    }

    async fn stops(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<Vec<JobId>, StoreError> {
        self.poll_for_stops(endpoint, worker, Caller::Admitted, wait).await
    }

    async fn stops_as(
        &self,
        endpoint: &str,
        worker: &str,
        instance: Option<&str>,
        wait: Duration,
    ) -> Result<Vec<JobId>, StoreError> {
        self.poll_for_stops(endpoint, worker, Caller::process(instance), wait).await
    }

    async fn take_overdue(&self, endpoint: &str, overdue: &Overdue) -> Result<Vec<TakenJob>, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let worker: Arc<str> = Arc::from(OVERFLOW);
        let overdue = overdue.clone();
        let need = Need { overdue: Some(overdue.clone()).filter(|overdue| overdue.max > 0), ..Need::worker(&worker) };
        let (shared, taken_at) = (Arc::clone(&self.shared), Arc::clone(&local));
        let decide = move |queue: &mut Queue<Filed>, now| queue.take_overdue(now, &overdue);
        let seen = move |jobs| Taken { shared, local: taken_at, worker, jobs };
        let taken = self.shared.run_seen(&local, need, decide, |jobs: &mut Vec<_>| payloads(jobs), seen).await?;
        self.delivered(taken).await
    }

    async fn accepted_elsewhere(&self, endpoint: &str, id: &str, far_id: &str) -> Result<(), StoreError> {
        let far_id = far_id.to_owned();
        let noted = self.on_job(endpoint, id, Need::default(), move |queue, _, id| {
            queue.accepted_elsewhere(id, &far_id);
        });
        ignore_unknown(noted.await)
    }

    async fn begun_elsewhere(&self, endpoint: &str, id: &str, ago: Duration) -> Result<(), StoreError> {
        let noted = self.on_job(endpoint, id, Need::default(), move |queue, now, id| {
            queue.begun_elsewhere(now, id, ago);
        });
        ignore_unknown(noted.await)
    }

    async fn elsewhere(&self, endpoint: &str) -> Result<Vec<JobElsewhere>, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let need = Need { held: true, ..Need::worker(OVERFLOW) };
        self.shared.run(&local, need, |queue, _| queue.elsewhere()).await
    }

    async fn taken_elsewhere(&self, endpoint: &str, id: &str) -> Result<Option<TakenJob>, StoreError> {
        let found = self.shared.look(endpoint, id).await?.and_then(|queue| queue.taken_elsewhere(id));
        Ok(self.with_texts(found.into_iter().collect()).await?.pop())
    }

    async fn is_overdue(&self, endpoint: &str, overdue: &Overdue) -> Result<bool, StoreError> {
        let (after, except) = (rows::micros(overdue.after), overdue.except.iter().map(|id| &**id).collect::<Vec<_>>());
        Ok(!self.shared.query(rows::ANY_OVERDUE, &[&endpoint, &after, &except]).await?.is_empty())
    }

    async fn cancels_elsewhere(&self, endpoint: &str) -> Result<Vec<CancelElsewhere>, StoreError> {
        self.shared.look_cancels_elsewhere(endpoint).await
    }

    async fn cancelled_elsewhere(&self, endpoint: &str, id: &str, far_id: &str) -> Result<(), StoreError> {
        let far_id = far_id.to_owned();
        let noted = self.on_job(endpoint, id, Need::default(), move |queue, _, id| {
            queue.cancelled_elsewhere(id, &far_id);
        });
        ignore_unknown(noted.await)
    }

    async fn worker_event(&self, endpoint: &str, worker: &str, event: WorkerEvent) -> Result<(), StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let worker: Arc<str> = Arc::from(worker);
        let need = Need { held: true, ..Need::worker(&worker) };
        self.shared.run(&local, need, move |queue, now| queue.worker_event(now, &worker, event)).await
    }

    async fn refreshing(&self, endpoint: &str, worker: &str, wait: Duration) -> Result<bool, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let deadline = Instant::now() + wait;
        let watch = local.wakers.supervisors.watch(worker);
        loop {
            let mut woken = pin!(watch.notified());
            woken.as_mut().enable();
            if self.shared.is_refreshing(endpoint, worker).await? {
                return Ok(true);
            }
            if timeout_at(deadline, woken).await.is_err() {
                return Ok(false);
            }
        }
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.shared.ready()
    }

    async fn leave(&self) {
        self.leaving.cancel();
        // While the database is away, the others notice by themselves.
        let _ = timeout(LEAVE_LIMIT, self.left.cancelled()).await;
    }

    fn database(&self) -> Option<DatabaseFigures> {
        let is_up = self.shared.ready().is_ok();
        Some(DatabaseFigures { is_up, ..*self.shared.figures.lock() })
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn turn(&self, endpoint: &str, task: Task) -> Result<bool, StoreError> {
        let (replica, lasts, task) = (&self.shared.replica, rows::micros(task.lasts()), task.name());
        Ok(!self.shared.query(rows::TAKE_TURN, &[&endpoint, replica, &lasts, &task]).await?.is_empty())
    }

    async fn observe(&self, endpoint: &str) -> Result<Observation, StoreError> {
        let LookedAt { health, ended, now, queue } = self.shared.look_health(endpoint).await?;
        let batch_requests = self.shared.look_unended(endpoint).await?;
        let oldest_wait = self.shared.look_oldest(endpoint, now).await?;
        let totals = self.shared.find(endpoint).map(|local| *local.totals.lock()).unwrap_or_default();
        Ok(Observation { health, totals, ended, batch_requests, oldest_wait, model: queue.newest_model() })
    }

    async fn endpoints(&self) -> Result<Vec<String>, StoreError> {
        let rows = self.shared.query("SELECT name FROM endpoints", &[]).await?;
        let mut names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn list(&self, endpoint: &str, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        self.shared.look_list(endpoint, filter).await
    }

    async fn search(&self, endpoint: &str, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.shared.look_search(endpoint, query).await
    }

    async fn inspect(&self, endpoint: &str, id: &str, seen: Seen, wait: Duration) -> Result<JobDetails, StoreError> {
        let local = self.job_endpoint(endpoint, id).await?;
        let deadline = Instant::now() + wait;
        let watch = local.wakers.job_readers.watch(id);
        let details = loop {
            let mut woken = pin!(watch.notified());
            woken.as_mut().enable();
            let found = self.shared.look_with_items(endpoint, id).await?.and_then(|queue| queue.inspect(id, seen));
            let details = found.ok_or(StoreError::JobNotFound)?;
            let is_news = details.revision != seen.revision || !details.items.is_empty();
            if is_news || timeout_at(deadline, woken).await.is_err() {
                break details;
            }
        };
        let JobDetails { view, revision, input, history, first_item, items } = details;
        let view = self.shared.with_output(view).await?;
        let input = self.shared.load(vec![input]).await?.into_iter().flatten().next();
        let input = input.ok_or(StoreError::JobNotFound)?;
        Ok(JobDetails { view, revision, input, history, first_item, items })
    }

    async fn workers(&self, endpoint: &str, max: usize) -> Result<Vec<WorkerView>, StoreError> {
        let LookedAt { now, queue, .. } = self.shared.look_health(endpoint).await?;
        Ok(queue.workers(now, max))
    }
}

/// A report about a job that is not there changes nothing.
pub(super) fn ignore_unknown(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(StoreError::JobNotFound) => Ok(()),
        outcome => outcome,
    }
}
