//! The overflow of one endpoint: which jobs it takes, and when.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cancel::cancel;
use super::client::{FarEndpoint, Why};
use super::counts::{EndpointCounts, HeldBack};
use super::follow::{Departure, Follower, How, Shared, ToCancel};
use super::limits::{
    CANCELS, FIRST_PAUSE, HELD_BACK_INTERVAL, LONGEST_PAUSE, LOOK_INTERVAL, MAX_RETURNS, REMEMBERED_RETURNS,
    RETRY_PAUSE, SHUTDOWN_TIME, STOP_TIME,
};
use super::settings::OverflowSettings;
use super::spending::Spending;
use crate::store::{Heartbeat, JobId, OVERFLOW, Overdue, Store, StoreError, TakenJob, Task as Turn, ping_interval};

/// One wait for stop signals.
const STOPS_WAIT: Duration = Duration::from_secs(25);

/// A job at the far endpoint.
struct Held {
    stop: CancellationToken,
    begun: Arc<OnceLock<Instant>>,
    /// How long it may run.
    run_time: Duration,
    task: AbortHandle,
}

impl Held {
    /// How long its run takes at most, or has taken already.
    fn longest(&self) -> Duration {
        self.run_time.saturating_add(STOP_TIME).max(self.begun.get().map(Instant::elapsed).unwrap_or_default())
    }
}

/// What is to be done with a job.
enum Task {
    Submit(Box<TakenJob>),
    /// It was submitted by the last process, under this id.
    Follow(Arc<str>),
}

/// After failures no job is sent for a while.
#[derive(Debug)]
struct Pause {
    since: Instant,
    until: Instant,
    next: Duration,
}

impl Pause {
    /// A job has come back that was sent then. Jobs that were sent before the pause are part of the failure that it follows.
    fn note(&mut self, sent: Instant) {
        if sent >= self.since {
            self.since = Instant::now();
            self.until = self.since + self.next;
            self.next = (self.next * 2).min(LONGEST_PAUSE);
        }
    }
}

/// A job with the time at which it was sent.
type Left = (JobId, Instant, Departure);

/// Whether late jobs are held back, and when that was looked at last.
#[derive(Debug, Default)]
struct Restraint {
    reason: Option<HeldBack>,
    looked: Option<Instant>,
}

/// The overflow of one endpoint.
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    /// How this process names itself, so that no other worker serves under the same id.
    instance: String,
    /// Another worker serves under the id, which was said.
    is_refused: bool,
    started: Instant,
    held: HashMap<JobId, Held>,
    tasks: JoinSet<Left>,
    /// Jobs that are to be cancelled at the far endpoint, with how long they may run there. They are not sent again before that is done.
    cancelling: HashMap<JobId, Duration>,
    /// Each with what it has cost.
    cancels: JoinSet<(JobId, f64)>,
    /// Jobs that the far endpoint has refused or lost too often.
    refused: HashSet<JobId>,
    restraint: Restraint,
    /// How often jobs were lost.
    returns: HashMap<JobId, u32>,
    pause: Pause,
    spending: Spending,
    leave: CancellationToken,
}

impl Forwarder {
    pub(super) fn new(
        store: Arc<dyn Store>,
        endpoint: Arc<str>,
        far: FarEndpoint,
        settings: OverflowSettings,
        counts: EndpointCounts,
        resumes: bool,
    ) -> Self {
        let now = Instant::now();
        let cancels = Semaphore::new(CANCELS);
        Self {
            shared: Arc::new(Shared { store, endpoint, far, settings, counts, resumes, cancels }),
            instance: Uuid::new_v4().to_string(),
            is_refused: false,
            started: now,
            held: HashMap::new(),
            tasks: JoinSet::new(),
            cancelling: HashMap::new(),
            cancels: JoinSet::new(),
            refused: HashSet::new(),
            restraint: Restraint::default(),
            returns: HashMap::new(),
            pause: Pause { since: now, until: now, next: FIRST_PAUSE },
            spending: Spending::default(),
            leave: CancellationToken::new(),
        }
    }

    /// Runs until `shutdown`. Of several programs that share a queue, one does at a time.
    pub(super) async fn run(mut self, drain: CancellationToken, shutdown: CancellationToken) {
        loop {
            let begun = async {
                self.wait_for_turn().await;
                self.resume().await;
            };
            if shutdown.run_until_cancelled(begun).await.is_none() {
                return;
            }
            self.lead(&drain, &shutdown).await;
            if shutdown.is_cancelled() {
                break;
            }
            // The next one follows these jobs, and cancels those that are to be cancelled.
            self.tasks.shutdown().await;
            self.cancels.shutdown().await;
            self.held.clear();
            self.cancelling.clear();
            self.shared.counts.note(|totals| (totals.is_away, totals.held_back) = (false, None));
        }
        self.leave.cancel();
        let _ = timeout(SHUTDOWN_TIME, async {
            while let Some(left) = self.tasks.join_next().await {
                self.note(left.ok());
            }
            while self.cancels.join_next().await.is_some() {}
        })
        .await;
    }

    async fn wait_for_turn(&self) {
        let Shared { store, endpoint, .. } = &*self.shared;
        while !matches!(store.turn(endpoint, Turn::Overflow).await, Ok(true)) {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        if store.is_shared() {
            tracing::info!(%endpoint, "This endpoint sends the late jobs of the queue to the overflow endpoint.");
            // The one before may look as if it were there for a while, and its jobs must not wait.
            if let Err(error) = store.goodbye(endpoint, OVERFLOW).await {
                tracing::debug!(%endpoint, %error, "The overflow waits until the one before counts as gone.");
            }
        }
    }

    /// Sends and follows jobs until `shutdown`, or until it is another program's turn.
    async fn lead(&mut self, drain: &CancellationToken, shutdown: &CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_beat = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = looks.tick() => {
                    if matches!(shared.store.turn(&shared.endpoint, Turn::Overflow).await, Ok(false)) {
                        tracing::warn!(endpoint = %shared.endpoint, "Another endpoint has taken over the late jobs of the queue.");
                        return;
                    }
                    if !drain.is_cancelled() {
                        self.look().await;
                    }
                }
                () = sleep_until(next_beat) => next_beat = Instant::now() + self.beat().await,
                stops = shared.store.stops(&shared.endpoint, OVERFLOW, STOPS_WAIT) => match stops {
                    Ok(stops) => stops.iter().filter_map(|id| self.held.get(id)).for_each(|held| held.stop.cancel()),
                    Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
                },
                Some(left) = self.tasks.join_next() => self.note(left.ok()),
                Some(cancelled) = self.cancels.join_next() => self.note_cancelled(cancelled.ok()),
            }
        }
    }

    /// Takes up the jobs that the last process has left at the far endpoint.
    async fn resume(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Shared { store, endpoint, .. } = &*shared;
        let jobs = loop {
            match store.elsewhere(endpoint).await {
                Ok(jobs) => break jobs,
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        let cancels = loop {
            match store.cancels_elsewhere(endpoint).await {
                Ok(cancels) => break cancels,
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        for job in cancels {
            let to_cancel =
                ToCancel { far_id: job.far_id.to_string(), takes_result: true, begun: None, is_paid: false };
            self.cancel(job.id, to_cancel, job.run_time.saturating_add(STOP_TIME));
        }
        for job in jobs {
            match job.far_id {
                Some(far_id) => self.hold(job.id, job.run_time, Task::Follow(far_id)),
                None => match store.taken_elsewhere(endpoint, &job.id).await {
                    Ok(Some(taken)) => {
                        tracing::warn!(%endpoint, job = %job.id, "It is not known whether the overflow endpoint has accepted this job before the restart. It is submitted again under the same Idempotency-Key.");
                        self.hold(job.id, job.run_time, Task::Submit(Box::new(taken)));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%endpoint, job = %job.id, %error, "The job waits until its lease ends.");
                    }
                },
            }
        }
    }

    /// Sends jobs that have waited for too long, as many as are allowed.
    async fn look(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Shared { store, endpoint, settings, .. } = &*shared;
        if let Err(error) = store.admit(endpoint, OVERFLOW, Some(&self.instance)).await {
            let is_taken = matches!(error, StoreError::WorkerIdInUse(_));
            if is_taken && !std::mem::replace(&mut self.is_refused, true) {
                tracing::warn!(%endpoint, "A worker elsewhere uses the id of the overflow. Give it another RUNPOD_POD_ID.");
            }
            return;
        }
        self.is_refused = false;
        while let Some(left) = self.tasks.try_join_next() {
            self.note(left.ok());
        }
        let may_send = Instant::now() >= self.pause.until;
        loop {
            let room = if may_send { settings.max_in_flight.saturating_sub(self.held.len()) } else { 0 };
            let run_time = self.affordable_time();
            // Each job leaves less money for the next one.
            let overdue = Overdue { max: if run_time.is_some() { room.min(1) } else { room }, run_time, ..self.late() };
            let jobs = match store.take_overdue(endpoint, &overdue).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    tracing::debug!(%endpoint, %error, "The overflow cannot take jobs at the moment.");
                    return;
                }
            };
            let is_last = jobs.is_empty() || run_time.is_none();
            for job in jobs {
                self.hold(Arc::clone(&job.id), job.request.policy.run_time(), Task::Submit(Box::new(job)));
            }
            if is_last {
                break;
            }
        }
        if may_send {
            self.note_restraint().await;
        }
    }

    /// The jobs that are late, but for those that must not be sent now.
    fn late(&self) -> Overdue {
        let except = self.refused.iter().chain(self.cancelling.keys()).chain(self.held.keys());
        Overdue { after: self.shared.settings.after, except: except.cloned().collect(), ..Overdue::default() }
    }

    /// Says when jobs begin to be held back, and when they no longer are.
    async fn note_restraint(&mut self) {
        let Shared { store, endpoint, settings, counts, .. } = &*self.shared;
        if self.restraint.looked.is_some_and(|looked| looked.elapsed() < HELD_BACK_INTERVAL) {
            return;
        }
        let is_full = self.held.len() >= settings.max_in_flight;
        let limit =
            if is_full { Some(HeldBack::InFlight) } else { settings.max_dollars_per_hour.map(|_| HeldBack::Budget) };
        let reason = match limit {
            Some(limit) => match store.is_overdue(endpoint, &self.late()).await {
                Ok(is_overdue) => is_overdue.then_some(limit),
                Err(_) => return,
            },
            None => None,
        };
        self.restraint.looked = Some(Instant::now());
        let before = std::mem::replace(&mut self.restraint.reason, reason);
        if before == reason {
            return;
        }
        counts.note(|totals| totals.held_back = reason);
        match reason {
            Some(HeldBack::InFlight) => {
                tracing::warn!(%endpoint, max_in_flight = settings.max_in_flight, "Late jobs wait here: as many jobs are at the overflow endpoint as `overflow.max_in_flight` allows.");
            }
            Some(HeldBack::Budget) => {
                tracing::warn!(%endpoint, max_dollars_per_hour = settings.max_dollars_per_hour, "Late jobs wait here: `overflow.max_dollars_per_hour` leaves too little for any of them.");
            }
            None => tracing::info!(%endpoint, "Late jobs are no longer held back from the overflow endpoint."),
        }
    }

    fn hold(&mut self, job: JobId, run_time: Duration, task: Task) {
        let (stop, begun) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let follower = Follower {
            shared: Arc::clone(&self.shared),
            job: Arc::clone(&job),
            stop: stop.clone(),
            leave: self.leave.clone(),
            begun: Arc::clone(&begun),
        };
        let (id, sent) = (Arc::clone(&job), Instant::now());
        let task = self.tasks.spawn(async move {
            let departure = match task {
                Task::Submit(job) => follower.submit(&job).await,
                Task::Follow(far_id) => follower.follow(&far_id).await,
            };
            (id, sent, departure)
        });
        self.held.insert(job, Held { stop, begun, run_time, task });
    }

    /// For how long one more job may run there; `None` without a limit on the money. What the jobs there may still cost is set aside,
    /// whether they have begun or wait.
    fn affordable_time(&mut self) -> Option<Duration> {
        let OverflowSettings { price, max_dollars_per_hour, .. } = self.shared.settings;
        let (max, price) = (max_dollars_per_hour?, price?);
        let cancelling = self.cancelling.values().copied();
        let set_aside: f64 = self.held.values().map(Held::longest).chain(cancelling).map(|time| price.of(time)).sum();
        let left = max - self.spending.last_hour(self.started.elapsed()) - set_aside;
        Some(price.buys(left).saturating_sub(STOP_TIME))
    }

    /// Sends a heartbeat; how long until the next one.
    async fn beat(&self) -> Duration {
        let heartbeat = Heartbeat { jobs: self.held.keys().cloned().collect(), ..Heartbeat::default() };
        let Shared { store, endpoint, .. } = &*self.shared;
        store.heartbeat(endpoint, OVERFLOW, heartbeat).await.map_or(RETRY_PAUSE, ping_interval)
    }

    /// Cancels a job at the far endpoint in the background.
    fn cancel(&mut self, job: JobId, to_cancel: ToCancel, longest: Duration) {
        self.cancelling.insert(Arc::clone(&job), longest);
        let (shared, leave) = (Arc::clone(&self.shared), self.leave.clone());
        self.cancels.spawn(async move {
            let dollars = cancel(&shared, &job, &to_cancel, longest, &leave).await;
            (job, dollars)
        });
    }

    /// Notes that a job has been cancelled there, or that its task has panicked.
    fn note_cancelled(&mut self, cancelled: Option<(JobId, f64)>) {
        if let Some((job, dollars)) = cancelled {
            self.cancelling.remove(&job);
            self.spending.note(self.started.elapsed(), dollars);
        }
    }

    /// Notes that a task has ended. A job whose task has panicked is missing from the heartbeats from now on.
    fn note(&mut self, left: Option<Left>) {
        let longest = left.as_ref().and_then(|(job, ..)| self.held.get(job)).map(Held::longest);
        self.held.retain(|_, held| !held.task.is_finished());
        let Some((job, sent, Departure { how, dollars, cancel })) = left else { return };
        self.spending.note(self.started.elapsed(), dollars);
        if let Some(to_cancel) = cancel {
            self.cancel(Arc::clone(&job), to_cancel, longest.unwrap_or_default());
        }
        match how {
            How::Ended => {
                self.pause.next = FIRST_PAUSE;
                self.returns.remove(&job);
            }
            How::Returned(why) => self.note_return(job, sent, why),
            How::Stopped | How::Left => {
                self.returns.remove(&job);
            }
        }
    }

    fn note_return(&mut self, job: JobId, sent: Instant, why: Why) {
        if self.returns.len() + self.refused.len() >= REMEMBERED_RETURNS {
            self.returns.clear();
            self.refused.clear();
        }
        if why != Why::OfJob {
            self.pause.note(sent);
        }
        let is_over = match why {
            Why::OfJob => true,
            // However long that lasts.
            Why::Outage => false,
            Why::Lost => {
                let times = self.returns.entry(Arc::clone(&job)).or_default();
                *times += 1;
                if *times >= MAX_RETURNS {
                    tracing::warn!(endpoint = %self.shared.endpoint, %job, times = *times, "The overflow endpoint has lost a job again and again after it had begun. It is not sent again, and waits for a worker of this endpoint: start one, or cancel the job and submit it again.");
                }
                *times >= MAX_RETURNS
            }
        };
        if is_over {
            self.returns.remove(&job);
            self.refused.insert(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::OverflowConfig;
    use super::*;
    use crate::store::{MemoryStore, Setup};

    fn forwarder() -> Forwarder {
        let config: OverflowConfig = toml::from_str("url = \"http://127.0.0.1:9/v2/far\"\nafter = \"0s\"").unwrap();
        let settings = config.open().unwrap();
        let far = FarEndpoint::new(&settings, 1 << 20).unwrap();
        let store = Arc::new(MemoryStore::new(Setup::default()));
        Forwarder::new(store, Arc::from("ep"), far, settings, EndpointCounts::default(), false)
    }

    #[tokio::test]
    async fn only_what_says_something_about_a_job_ends_its_overflow() {
        let mut forwarder = forwarder();
        for (why, times) in [(Why::Outage, 100), (Why::Lost, MAX_RETURNS), (Why::OfJob, 1)] {
            let job: JobId = format!("{why:?}").into();
            for time in 1..=times {
                assert!(forwarder.refused.is_empty(), "{why:?} {time}");
                forwarder.note(Some((Arc::clone(&job), Instant::now(), How::Returned(why).into())));
            }
            assert_eq!(forwarder.refused.remove(&job), why != Why::Outage, "{why:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_come_back_from_one_failure_make_one_pause_and_the_next_failure_a_longer_one() {
        let sent = Instant::now();
        let mut pause = Pause { since: sent, until: sent, next: FIRST_PAUSE };
        tokio::time::advance(Duration::from_millis(5)).await;
        for _ in 0..12 {
            pause.note(sent);
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        assert_eq!((pause.until - pause.since, pause.next), (FIRST_PAUSE, FIRST_PAUSE * 2));
        pause.note(Instant::now());
        assert_eq!(pause.until - Instant::now(), FIRST_PAUSE * 2);
    }
}
