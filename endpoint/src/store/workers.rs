//! The workers of one endpoint: what each holds, and when it was last in contact.

mod shared;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::counts::WorkerCounts;
use super::limits::Limits;
use super::model::Model;
use super::presence::{Admission, Presence};
use super::request::JobId;
use super::views::{WorkerState, WorkerView};

/// The name of workers that poll with an unexpanded placeholder, as the official Python worker does when the
/// job-take URL contains `$RUNPOD_POD_ID`.
pub const ANONYMOUS: &str = "$RUNPOD_POD_ID";

/// The name of the worker that has late jobs run by another endpoint.
pub const OVERFLOW: &str = "overflow";

/// Stop signals kept for a worker that does not fetch them; the oldest makes room.
const MAX_STOPS: usize = 1000;

/// A job that this many heartbeats name after its stop signal was fetched has not been stopped. The first heartbeat may
/// have been on its way already; the second is a whole interval later.
const HEARTBEATS_TO_STOP: u32 = 2;

/// A heartbeat of a worker.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat {
    /// The jobs that the worker holds.
    pub jobs: Vec<JobId>,
    /// The worker reports that it cannot work.
    pub unhealthy: bool,
    /// What runs the jobs, if the worker says it.
    pub model: Option<Model>,
}

/// What happened to the process of a local worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerEvent {
    /// Its process was started. Jobs that an earlier process of this name held are lost.
    Starting,
    /// It is about to be stopped and must get no more jobs.
    Leaving,
    /// Its process exited several times without a longer run in between; it counts as unhealthy until it is [`Gone`](Self::Gone).
    Failing,
    /// This machine has no room for its process at the moment; starting it is tried again.
    Throttled,
    /// It answers requests itself and takes no jobs: this many now. To be repeated within the lease.
    Serving(usize),
    /// Its process has exited. Jobs that it held are lost.
    Gone,
}

/// How the jobs of a worker ended.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ended {
    completed: u32,
    failed: u32,
    last: Timestamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Worker {
    #[serde(skip)]
    pub(crate) held: HashSet<JobId>,
    pub(crate) heartbeat_seen: bool,
    polled: bool,
    taken: u64,
    unhealthy: bool,
    /// Jobs of this process that have ended, as far as processes of this worker can be told apart.
    ended: Ended,
    throttled: bool,
    /// Requests that it answers now, of a worker that takes no jobs.
    serving: Option<usize>,
    /// Its latest heartbeat named no job, as the first one of a fresh process does.
    introduced: bool,
    refreshing: bool,
    /// It said goodbye. The record stays while results of it are still on their way, or its replacement is.
    left: bool,
    presence: Presence,
    /// What runs its jobs, if it has said it.
    model: Option<Arc<Model>>,
    /// Since when that is so.
    model_since: Timestamp,
    /// Since when it polls although it is refreshing and holds no job.
    refused_since: Option<Timestamp>,
    #[serde(skip)]
    polls_open: usize,
    last_poll: Timestamp,
    last_contact: Timestamp,
    stops: VecDeque<JobId>,
    /// Stop signals that were fetched, and how many heartbeats have named the job since.
    stops_sent: VecDeque<(JobId, u32)>,
    forget_at: Timestamp,
}

impl Worker {
    /// Whether jobs may be given to it.
    pub(crate) fn is_eligible(&self) -> bool {
        !self.unhealthy && !self.refreshing
    }

    /// Notes that it asks for jobs, and that it sends heartbeats.
    pub(crate) fn note_polling(&mut self) {
        (self.polled, self.heartbeat_seen) = (true, true);
    }

    pub(crate) fn is_refreshing(&self) -> bool {
        self.refreshing
    }

    fn is_silent(&self, now: Timestamp, limits: &Limits) -> bool {
        let is_known_by_sign = self.heartbeat_seen || self.polled || self.serving.is_some();
        is_known_by_sign && self.polls_open == 0 && now > self.last_contact + limits.lease
    }

    /// The jobs or requests that it works on.
    fn load(&self) -> usize {
        self.held.len() + self.serving.unwrap_or_default()
    }

    /// A new process uses the id of one that left.
    fn come_back(&mut self) {
        if self.left {
            (self.left, self.refreshing, self.refused_since) = (false, false, None);
        }
    }

    /// Whether a job has ended on it, so that it has started.
    pub(crate) fn has_started(&self) -> bool {
        self.ended.completed + self.ended.failed > 0
    }

    /// It can be given jobs, as far as is known.
    fn is_fit(&self, now: Timestamp, limits: &Limits) -> bool {
        self.polled && self.is_eligible() && !self.left && !self.throttled && !self.is_silent(now, limits)
    }

    fn is_busy(&self) -> bool {
        !self.held.is_empty() || self.polls_open > 0
    }
}

pub(crate) use shared::{KeptWorker, OpenPolls};

/// All workers of one endpoint, forgotten after a silence.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    by_id: HashMap<Arc<str>, Worker>,
    deadlines: BTreeSet<(Timestamp, Arc<str>)>,
}

impl Workers {
    pub(crate) fn get(&self, id: &str) -> Option<&Worker> {
        self.by_id.get(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Admits a request of a worker's process, or refuses it while another process serves under this id.
    pub(crate) fn admit(&mut self, now: Timestamp, id: &str, instance: Option<&str>, limits: &Limits) -> Admission {
        if instance.is_some() && !self.by_id.contains_key(id) {
            self.contact(now, id, limits);
        }
        self.by_id
            .get_mut(id)
            .map_or(Admission::Admitted { is_news: false }, |worker| worker.presence.admit(now, instance))
    }

    /// Notes that a worker has left: nothing more is expected of it. What it reported stands: that it is unhealthy, or that it
    /// is to be replaced.
    pub(crate) fn leave(&mut self, id: &str) {
        let Some(worker) = self.by_id.get_mut(id) else { return };
        worker.presence.leave();
        worker.left = !worker.unhealthy;
        if worker.left && !worker.refreshing && worker.held.is_empty() {
            self.remove(id);
        }
    }

    /// Notes a request of a worker, if it is known.
    pub(crate) fn touch(&mut self, now: Timestamp, id: &str, limits: &Limits) {
        if self.by_id.contains_key(id) {
            self.contact(now, id, limits);
        }
    }

    /// The worker's record, created on first contact.
    pub(crate) fn contact(&mut self, now: Timestamp, id: &str, limits: &Limits) -> (Arc<str>, &mut Worker) {
        let id = self.by_id.get_key_value(id).map_or_else(|| Arc::from(id), |(known, _)| Arc::clone(known));
        if !self.by_id.contains_key(&id) && self.by_id.len() >= limits.max_workers {
            self.evict();
        }
        let worker = self.by_id.entry(Arc::clone(&id)).or_default();
        self.deadlines.remove(&(worker.forget_at, Arc::clone(&id)));
        worker.last_contact = now;
        worker.forget_at = now + limits.worker_retention;
        self.deadlines.insert((worker.forget_at, Arc::clone(&id)));
        (id, worker)
    }

    fn evict(&mut self) {
        let idle = self.deadlines.iter().find(|(_, id)| self.by_id.get(id).is_none_or(|worker| !worker.is_busy()));
        if let Some((_, id)) = idle.cloned() {
            self.remove(&id);
        }
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Worker> {
        let (id, worker) = self.by_id.remove_entry(id)?;
        self.deadlines.remove(&(worker.forget_at, id));
        Some(worker)
    }

    pub(crate) fn poll_started(&mut self, now: Timestamp, id: &str, limits: &Limits) {
        let (_, worker) = self.contact(now, id, limits);
        worker.come_back();
        if worker.refreshing && worker.held.is_empty() {
            let refused_since = *worker.refused_since.get_or_insert(now);
            let was_away = worker.polls_open == 0 && now >= worker.last_poll + limits.refresh_gap;
            worker.refreshing = !was_away && now < refused_since + limits.refresh_patience;
        }
        // A fresh process is known by the pause before its first poll.
        if worker.held.is_empty()
            && worker.polls_open == 0
            && now >= worker.last_poll.max(worker.ended.last) + limits.refresh_gap
        {
            worker.ended = Ended::default();
            // Others show by a heartbeat that they are fresh.
            worker.unhealthy &= worker.heartbeat_seen;
        }
        // A process that reported a failed check asks for no more jobs, though it sends heartbeats for those it still holds.
        // One that introduces itself and then asks is a fresh one.
        worker.unhealthy &= !worker.introduced;
        worker.polled = true;
        worker.polls_open += 1;
        worker.last_poll = now;
        let for_jobs = (*id != *ANONYMOUS).then_some(worker.polls_open);
        worker.presence.poll_started(now, for_jobs);
    }

    /// Notes the end of a poll; `answered` unless the worker hung up. Returns whether a duplicate is to be reported.
    pub(crate) fn poll_ended(&mut self, now: Timestamp, id: &str, answered: bool) -> bool {
        let Some(worker) = self.by_id.get_mut(id) else { return false };
        worker.polls_open = worker.polls_open.saturating_sub(1);
        worker.last_poll = now;
        worker.last_contact = now;
        worker.presence.poll_ended(now, answered, worker.polls_open)
    }

    /// Notes an open poll for stop signals of a known worker; returns whether it is one.
    pub(crate) fn stop_poll_started(&mut self, now: Timestamp, id: &str) -> bool {
        let Some(worker) = self.by_id.get_mut(id) else { return false };
        worker.presence.poll_started(now, None);
        true
    }

    /// Notes the end of such a poll.
    pub(crate) fn stop_poll_ended(&mut self, now: Timestamp, id: &str, answered: bool) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.presence.poll_ended(now, answered, worker.polls_open);
        }
    }

    pub(crate) fn heartbeat(&mut self, now: Timestamp, id: &str, heartbeat: &Heartbeat, limits: &Limits) -> Arc<str> {
        let (id, worker) = self.contact(now, id, limits);
        worker.come_back();
        worker.heartbeat_seen = true;
        worker.unhealthy |= heartbeat.unhealthy;
        worker.introduced = !heartbeat.unhealthy && heartbeat.jobs.is_empty();
        id
    }

    /// Notes what runs the jobs of a worker; returns it if that is news.
    pub(crate) fn introduce(&mut self, now: Timestamp, id: &str, model: &Model) -> Option<Arc<Model>> {
        let worker = self.by_id.get_mut(id).filter(|worker| worker.model.as_deref() != Some(model))?;
        (worker.model, worker.model_since) = (Some(Arc::new(model.clone())), now);
        worker.model.clone()
    }

    /// Notes that a worker cannot work, by other means than a heartbeat.
    pub(crate) fn fail(&mut self, now: Timestamp, id: &str, limits: &Limits) {
        let (_, worker) = self.contact(now, id, limits);
        (worker.unhealthy, worker.introduced) = (true, false);
    }

    /// Notes that a worker completed a job.
    pub(crate) fn note_completed(&mut self, now: Timestamp, id: &str) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.ended.completed = worker.ended.completed.saturating_add(1);
            worker.ended.last = now;
        }
    }

    /// Notes that a worker failed a job; returns whether it gets no more from now on. A worker that can do nothing but fail drains
    /// the queue faster than any other. Heartbeats come from a worker that has started, whose failures are those of its jobs.
    pub(crate) fn note_failed(&mut self, now: Timestamp, id: &str, limits: &Limits) -> bool {
        let Some(worker) = self.by_id.get_mut(id) else { return false };
        worker.ended.failed = worker.ended.failed.saturating_add(1);
        worker.ended.last = now;
        let only_fails = worker.ended.completed == 0 && worker.ended.failed >= limits.max_first_failures;
        let is_news = only_fails && !worker.heartbeat_seen && !worker.unhealthy;
        worker.unhealthy |= is_news;
        is_news
    }

    /// Whether there is a worker besides this one that can be given jobs.
    pub(crate) fn has_other_fit(&self, now: Timestamp, id: &str, limits: &Limits) -> bool {
        self.by_id.iter().any(|(other, worker)| **other != *id && worker.is_fit(now, limits))
    }

    /// Notes that there is no room for a worker's process.
    pub(crate) fn throttle(&mut self, now: Timestamp, id: &str, limits: &Limits) {
        let (_, worker) = self.contact(now, id, limits);
        worker.throttled = true;
    }

    /// Notes what a worker does that answers requests itself. It can work, whatever was noted before.
    pub(crate) fn serve(&mut self, now: Timestamp, id: &str, requests: usize, limits: &Limits) {
        let (_, worker) = self.contact(now, id, limits);
        (worker.serving, worker.unhealthy, worker.throttled) = (Some(requests), false, false);
    }

    /// Notes that heartbeats of this worker were seen before the endpoint was started again.
    pub(crate) fn expect_heartbeats(&mut self, id: &str) {
        if let Some(worker) = self.by_id.get_mut(id) {
            worker.heartbeat_seen = true;
        }
    }

    pub(crate) fn refresh(&mut self, now: Timestamp, id: &str, limits: &Limits) {
        let (_, worker) = self.contact(now, id, limits);
        (worker.refreshing, worker.refused_since) = (true, None);
        worker.last_poll = now;
    }

    /// Notes that `worker` took or adopted `job`. A stop signal for an earlier attempt must not hit this one.
    pub(crate) fn hold(&mut self, worker: &str, job: &JobId) {
        if let Some(worker) = self.by_id.get_mut(worker) {
            worker.polled = true;
            worker.taken += 1;
            worker.held.insert(Arc::clone(job));
            worker.stops.retain(|id| id != job);
            worker.stops_sent.retain(|(id, _)| id != job);
        }
    }

    pub(crate) fn release(&mut self, worker: &str, job: &JobId) {
        let Some(record) = self.by_id.get_mut(worker) else { return };
        record.held.remove(job);
        if record.left && !record.refreshing && record.held.is_empty() {
            self.remove(worker);
        }
    }

    /// Files a stop signal for a worker that can be reached.
    pub(crate) fn signal_stop(&mut self, worker: &str, job: &JobId) -> bool {
        let Some(worker) = self.by_id.get_mut(worker) else { return false };
        if worker.stops.len() >= MAX_STOPS {
            worker.stops.pop_front();
        }
        worker.stops.push_back(Arc::clone(job));
        true
    }

    pub(crate) fn withdraw_stop(&mut self, worker: &str, job: &str) {
        for id in [worker, ANONYMOUS] {
            if let Some(worker) = self.by_id.get_mut(id) {
                worker.stops.retain(|id| **id != *job);
                worker.stops_sent.retain(|(id, _)| **id != *job);
            }
        }
    }

    pub(crate) fn take_stops(&mut self, worker: &str) -> Vec<JobId> {
        let Some(worker) = self.by_id.get_mut(worker) else { return Vec::new() };
        let stops: Vec<_> = worker.stops.drain(..).collect();
        worker.stops_sent.extend(stops.iter().map(|id| (Arc::clone(id), 0)));
        worker.stops_sent.drain(..worker.stops_sent.len().saturating_sub(MAX_STOPS));
        stops
    }

    /// Compares a heartbeat with the stop signals that this worker has fetched; the jobs to stop once more. The official
    /// worker ignores a signal that overtakes the start of its job, and would run that job to its end.
    pub(crate) fn ignored_stops(&mut self, worker: &str, alive: &[JobId]) -> Vec<JobId> {
        let Some(worker) = self.by_id.get_mut(worker) else { return Vec::new() };
        for (_, heartbeats) in worker.stops_sent.iter_mut().filter(|(id, _)| alive.contains(id)) {
            *heartbeats += 1;
        }
        let ignored = |(_, heartbeats): &&(JobId, u32)| *heartbeats >= HEARTBEATS_TO_STOP;
        worker.stops_sent.iter().filter(ignored).map(|(id, _)| Arc::clone(id)).collect()
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = &JobId> {
        self.by_id.values().flat_map(|worker| worker.held.iter())
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Forgets workers that have been silent for too long.
    pub(crate) fn expire(&mut self, now: Timestamp, limits: &Limits) {
        while let Some((_, id)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            if self.by_id.get(&id).is_some_and(Worker::is_busy) {
                let contact = self.by_id.get(&id).map(|worker| worker.last_contact);
                let (_, worker) = self.contact(now, &id, limits);
                worker.last_contact = contact.unwrap_or(now);
            } else {
                self.remove(&id);
            }
        }
    }

    /// What a worker does; `None` for one that stands for a worker counted by another name.
    fn state(&self, id: &str, worker: &Worker, now: Timestamp, limits: &Limits) -> Option<WorkerState> {
        Some(match worker {
            _ if worker.left => WorkerState::Leaving,
            _ if worker.unhealthy => WorkerState::Unhealthy,
            _ if worker.throttled => WorkerState::Throttled,
            _ if worker.load() > 0 => WorkerState::Running,
            _ if worker.refreshing => WorkerState::Leaving,
            _ if *id == *ANONYMOUS && self.by_id.len() > 1 => return None,
            _ if worker.is_silent(now, limits) => WorkerState::Lost,
            _ if *id == *OVERFLOW => WorkerState::Standby,
            _ if worker.polled || worker.serving.is_some() => WorkerState::Idle,
            _ => WorkerState::Initializing,
        })
    }

    pub(crate) fn counts(&self, now: Timestamp, limits: &Limits) -> WorkerCounts {
        let mut counts = WorkerCounts::default();
        for (id, worker) in &self.by_id {
            match self.state(id, worker, now, limits) {
                Some(WorkerState::Unhealthy) => counts.unhealthy += 1,
                Some(WorkerState::Lost) => counts.lost += 1,
                Some(WorkerState::Throttled) => counts.throttled += 1,
                Some(WorkerState::Running) => counts.running += 1,
                Some(WorkerState::Idle) => counts.idle += 1,
                Some(WorkerState::Initializing) => counts.initializing += 1,
                Some(WorkerState::Standby | WorkerState::Leaving) | None => {}
            }
        }
        counts
    }

    /// Workers in the order of their ids, at most `max`.
    pub(crate) fn list(&self, now: Timestamp, limits: &Limits, max: usize) -> Vec<WorkerView> {
        let view = |(id, worker): (&Arc<str>, &Worker)| {
            let state = self.state(id, worker, now, limits)?;
            let silent_for = match worker.polls_open {
                0 => now.saturating_sub(worker.last_contact),
                _ => Timestamp::ZERO,
            };
            let has_duplicate = worker.presence.has_duplicate(now);
            let (id, jobs, taken) = (Arc::clone(id), worker.load(), worker.taken);
            Some(WorkerView { id, state, jobs, taken, silent_for, has_duplicate })
        };
        let mut list: Vec<_> = self.by_id.iter().filter_map(view).collect();
        list.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        list.truncate(max);
        list
    }
}
