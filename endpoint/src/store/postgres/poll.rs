//! Polls that are held open, and jobs on their way to a worker.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::PostgresStore;
use super::local::Local;
use super::shared::Shared;
use super::work::Need;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::payload::Filed;
use crate::store::queue::Queue;
use crate::store::request::JobId;
use crate::store::views::TakenJob;
use crate::store::wakers::REFUSED_HOLD;

/// Jobs that were taken and not yet passed on. They go back when the poll ends before that.
pub(super) struct Taken {
    pub(super) shared: Arc<Shared>,
    pub(super) local: Arc<Local>,
    pub(super) worker: Arc<str>,
    pub(super) jobs: Vec<TakenJob<Filed>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let jobs: Vec<_> = self.jobs.drain(..).map(|job| (job.id, job.attempt)).collect();
        let need = Need { jobs: jobs.iter().map(|(id, _)| Arc::clone(id)).collect(), ..Need::worker(&self.worker) };
        let worker = Arc::clone(&self.worker);
        self.shared.note(&self.local, need, move |queue, _| {
            for (id, attempt) in &jobs {
                queue.return_unsent(&worker, id, *attempt);
            }
        });
    }
}

/// The payloads of jobs that were taken.
pub(super) fn payloads(jobs: &mut [TakenJob<Filed>]) -> Vec<&mut Filed> {
    jobs.iter_mut().flat_map(|job| job.request.payloads_mut().map(|(_, payload)| payload)).collect()
}

/// What a poll asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsksFor {
    Jobs,
    Stops,
}

/// A poll that is held open. Its end is noted when it is dropped: nobody waits for that. While a unit looks for it, the unit has it, so
/// that it is known whether the unit came about that began or ended it.
pub(super) struct Poll {
    pub(super) shared: Arc<Shared>,
    pub(super) local: Arc<Local>,
    pub(super) worker: Arc<str>,
    pub(super) asks_for: AsksFor,
    /// The database knows that it has begun, and not that it has ended.
    pub(super) is_open: bool,
    /// Its worker gets an answer. Otherwise it has hung up, or this replica drains.
    pub(super) is_answered: bool,
}

impl Drop for Poll {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let (worker, asks_for, is_answered) = (Arc::clone(&self.worker), self.asks_for, self.is_answered);
        // A worker that was answered polls again, and one unit notes both.
        let need = Need { may_be_delayed: is_answered, ..Need::worker(&self.worker) };
        self.shared.note(&self.local, need, move |queue, now| match asks_for {
            AsksFor::Jobs => queue.poll_ended(now, &worker, is_answered),
            AsksFor::Stops => queue.stop_poll_ended(now, &worker, is_answered),
        });
    }
}

/// Who sends a request of a worker.
pub(super) enum Caller {
    /// It is known to be the right one.
    Admitted,
    /// A process of the worker, by what it calls itself. It is admitted in the request's own unit of work.
    Process(Option<Arc<str>>),
}

impl Caller {
    pub(super) fn process(instance: Option<&str>) -> Self {
        Self::Process(instance.map(Arc::from))
    }

    /// Admits it.
    pub(super) fn admit(&self, queue: &mut Queue<Filed>, now: Timestamp, worker: &str) -> Result<(), StoreError> {
        match self {
            Self::Admitted => Ok(()),
            Self::Process(instance) => queue.admit(now, worker, instance.as_deref()),
        }
    }
}

/// What a look for jobs has found.
struct Look {
    poll: Poll,
    taken: Taken,
    /// Whether the worker may get jobs at all.
    is_eligible: bool,
    /// The poll ended with this look.
    has_ended: bool,
}

/// The same, as it is decided: jobs, whether there may be any, whether the poll has ended.
type Found = (Vec<TakenJob<Filed>>, bool, bool);

fn payloads_of_found(found: &mut Result<Found, StoreError>) -> Vec<&mut Filed> {
    found.as_mut().map(|(jobs, ..)| payloads(jobs)).unwrap_or_default()
}

impl PostgresStore {
    /// Waits for jobs.
    pub(super) async fn poll_for_jobs(
        &self,
        endpoint: &str,
        worker: &str,
        caller: Caller,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<TakenJob>, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let deadline = Instant::now() + wait;
        let mut poll = self.poll(&local, worker, AsksFor::Jobs);
        let _waiting = local.wait_for_jobs();
        let mut begins = Some(caller);
        loop {
            let mut woken = pin!(local.wakers.jobs_waiting.notified());
            // Registers before the look, so that a job submitted in between wakes this poll.
            woken.as_mut().enable();
            let look = self.look_for_jobs(poll, max, begins.take(), wait.is_zero()).await??;
            poll = look.poll;
            if look.has_ended {
                if !look.taken.jobs.is_empty() {
                    // A hint of another replica may stand for many jobs. Whoever finds some wakes the next one here.
                    local.wakers.jobs_waiting.notify_one();
                }
                return self.delivered(look.taken).await;
            }
            if !look.is_eligible {
                // This one is held all the same: after an empty answer the worker would poll again at once. Its wake-up is not missed:
                // those who wait look once a second.
                sleep_until(deadline.min(Instant::now() + REFUSED_HOLD)).await;
                break;
            }
            if timeout_at(deadline, woken).await.is_err() {
                break;
            }
        }
        poll.is_answered = true;
        Ok(Vec::new())
    }

    /// One look for jobs, as part of a poll; the first one admits its `caller`.
    ///
    /// # Errors
    /// When it did not come about. The inner error: the caller is refused.
    async fn look_for_jobs(
        &self,
        mut poll: Poll,
        max: usize,
        caller: Option<Caller>,
        is_last: bool,
    ) -> Result<Result<Look, StoreError>, StoreError> {
        let (local, worker) = (Arc::clone(&poll.local), Arc::clone(&poll.worker));
        let need = Need { take: max, ..Need::worker(&worker) };
        let decide = move |queue: &mut Queue<Filed>, now: Timestamp| -> Result<Found, StoreError> {
            if let Some(caller) = &caller {
                caller.admit(queue, now, &worker)?;
                queue.poll_started(now, &worker);
            }
            let jobs = queue.take(now, &worker, max);
            let is_eligible = queue.is_eligible(&worker);
            let has_ended = is_last || !jobs.is_empty();
            if has_ended {
                queue.poll_ended(now, &worker, true);
            }
            Ok((jobs, is_eligible, has_ended))
        };
        let seen = move |decided: Result<Found, StoreError>| {
            let (jobs, is_eligible, has_ended) = decided?;
            poll.is_open = !has_ended;
            let (shared, local, worker) = (Arc::clone(&poll.shared), Arc::clone(&poll.local), Arc::clone(&poll.worker));
            let taken = Taken { shared, local, worker, jobs };
            Ok(Look { poll, taken, is_eligible, has_ended })
        };
        self.shared.run_seen(&local, need, decide, payloads_of_found, seen).await
    }

    /// Waits for jobs that the worker must stop.
    pub(super) async fn poll_for_stops(
        &self,
        endpoint: &str,
        worker: &str,
        caller: Caller,
        wait: Duration,
    ) -> Result<Vec<JobId>, StoreError> {
        let local = self.shared.endpoint(endpoint).await?;
        let deadline = Instant::now() + wait;
        let watch = local.wakers.stop_polls.watch(worker);
        let mut poll = self.poll(&local, worker, AsksFor::Stops);
        let (mut is_known, mut begins) = (true, Some(caller));
        loop {
            let mut woken = pin!(watch.notified());
            woken.as_mut().enable();
            let (name, is_last, caller) = (Arc::clone(&poll.worker), wait.is_zero(), begins.take());
            let decide = move |queue: &mut Queue<Filed>, now| -> Result<_, StoreError> {
                let is_known = match &caller {
                    Some(caller) => {
                        caller.admit(queue, now, &name)?;
                        queue.stop_poll_started(now, &name)
                    }
                    None => is_known,
                };
                let stops = queue.take_stops(&name);
                let has_ended = is_last || !stops.is_empty();
                if has_ended && is_known {
                    queue.stop_poll_ended(now, &name, true);
                }
                Ok((stops, is_known, has_ended))
            };
            let seen = move |decided: Result<(Vec<JobId>, bool, bool), StoreError>| {
                let (stops, is_known, has_ended) = decided?;
                // The poll of a worker that is not known yet is not counted.
                poll.is_open = is_known && !has_ended;
                Ok::<_, StoreError>((poll, stops, is_known, has_ended))
            };
            let look = self.shared.run_seen(&local, Need::worker(worker), decide, |_| Vec::new(), seen);
            let (stops, has_ended);
            (poll, stops, is_known, has_ended) = look.await??;
            if has_ended {
                return Ok(stops);
            }
            if timeout_at(deadline, woken).await.is_err() {
                break;
            }
        }
        poll.is_answered = true;
        Ok(Vec::new())
    }

    pub(super) fn poll(&self, local: &Arc<Local>, worker: &str, asks_for: AsksFor) -> Poll {
        Poll {
            shared: Arc::clone(&self.shared),
            local: Arc::clone(local),
            worker: Arc::from(worker),
            asks_for,
            is_open: false,
            is_answered: false,
        }
    }

    /// Jobs with their texts, for the worker that they are given to.
    pub(super) async fn delivered(&self, mut taken: Taken) -> Result<Vec<TakenJob>, StoreError> {
        let jobs = self.with_texts(taken.jobs.clone()).await?;
        taken.jobs.clear();
        Ok(jobs)
    }

    /// Jobs with their texts; without those whose records have expired meanwhile.
    pub(super) async fn with_texts(&self, jobs: Vec<TakenJob<Filed>>) -> Result<Vec<TakenJob>, StoreError> {
        let loaded = self.shared.with_payloads(jobs.iter().map(|job| job.request.clone()).collect()).await?;
        let with_text = |(job, request): (TakenJob<Filed>, Option<_>)| {
            let TakenJob { id, attempt, handover, submitted, delay, .. } = job;
            request.map(|request| TakenJob { id, attempt, handover, submitted, delay, request })
        };
        Ok(jobs.into_iter().zip(loaded).filter_map(with_text).collect())
    }
}
