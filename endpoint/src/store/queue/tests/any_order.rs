//! Random sequences of events, checked after every step.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::store::views::JobView;
use crate::store::{ANONYMOUS, CallerMistake, Heartbeat, OVERFLOW, Overdue, WorkerEvent};

const WORKERS: [&str; 4] = ["w0", "w1", ANONYMOUS, OVERFLOW];

/// One event. `job` numbers the submitted jobs, `worker` those of [`WORKERS`].
#[derive(Debug, Clone)]
enum Event {
    Submit { low_priority: bool },
    Take { worker: usize, max: usize },
    TakeOverdue { max: usize },
    AcceptedElsewhere { job: usize },
    BegunElsewhere { job: usize },
    GiveBack { job: usize },
    Finish { worker: usize, job: usize, failed: bool, refresh: bool },
    Progress { worker: usize, job: usize },
    StreamItem { worker: usize, job: usize },
    Heartbeat { worker: usize, jobs: Vec<usize>, unhealthy: bool },
    Cancel { job: usize },
    Retry { job: usize },
    Drain { job: usize },
    Purge,
    Stops { worker: usize },
    HandBack { worker: usize, jobs: Vec<usize> },
    Goodbye { worker: usize },
    Gone { worker: usize },
    Advance { seconds: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let job = || 0..12_usize;
    let worker = || 0..WORKERS.len();
    prop_oneof![
        4 => any::<bool>().prop_map(|low_priority| Event::Submit { low_priority }),
        4 => (worker(), 1..4_usize).prop_map(|(worker, max)| Event::Take { worker, max }),
        2 => (1..4_usize).prop_map(|max| Event::TakeOverdue { max }),
        1 => job().prop_map(|job| Event::AcceptedElsewhere { job }),
        1 => job().prop_map(|job| Event::BegunElsewhere { job }),
        1 => job().prop_map(|job| Event::GiveBack { job }),
        3 => (worker(), job(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(worker, job, failed, refresh)| Event::Finish { worker, job, failed, refresh }),
        1 => (worker(), job()).prop_map(|(worker, job)| Event::Progress { worker, job }),
        1 => (worker(), job()).prop_map(|(worker, job)| Event::StreamItem { worker, job }),
        2 => (worker(), prop::collection::vec(job(), 0..4), prop::bool::weighted(0.1))
            .prop_map(|(worker, jobs, unhealthy)| Event::Heartbeat { worker, jobs, unhealthy }),
        1 => job().prop_map(|job| Event::Cancel { job }),
        1 => job().prop_map(|job| Event::Retry { job }),
        1 => job().prop_map(|job| Event::Drain { job }),
        1 => Just(Event::Purge),
        1 => worker().prop_map(|worker| Event::Stops { worker }),
        1 => (worker(), prop::collection::vec(job(), 0..4)).prop_map(|(worker, jobs)| Event::HandBack { worker, jobs }),
        1 => worker().prop_map(|worker| Event::Goodbye { worker }),
        1 => worker().prop_map(|worker| Event::Gone { worker }),
        3 => (1..60_u64).prop_map(|seconds| Event::Advance { seconds }),
    ]
}

/// The queue and what an observer remembers of it.
struct Observer {
    queue: Queue,
    now: Timestamp,
    jobs: Vec<JobId>,
    /// Order of submission, low priority last.
    order: HashMap<JobId, (bool, usize)>,
    submissions: usize,
    /// Retries at the time of the last dispatch of a job that nobody gave back.
    dispatched: HashMap<JobId, u32>,
    last: HashMap<JobId, TakenJob>,
    takers: HashMap<JobId, &'static str>,
    /// First end of each job.
    ends: HashMap<JobId, (Status, Option<String>, Option<String>)>,
}

impl Observer {
    fn new() -> Self {
        Self {
            queue: Queue::new(Limits::default()),
            now: Duration::ZERO,
            jobs: Vec::new(),
            order: HashMap::new(),
            submissions: 0,
            dispatched: HashMap::new(),
            last: HashMap::new(),
            takers: HashMap::new(),
            ends: HashMap::new(),
        }
    }

    fn job(&self, number: usize) -> JobId {
        self.jobs.get(number).cloned().unwrap_or_else(|| "unknown".into())
    }

    fn apply(&mut self, event: &Event) {
        self.queue.tick(self.now);
        let now = self.now;
        match event {
            Event::Submit { low_priority } => self.submit(*low_priority),
            Event::Take { worker, max } => self.take(WORKERS[*worker], *max),
            Event::TakeOverdue { max } => {
                let before = self.views();
                let eligible = self.queue.is_eligible(OVERFLOW);
                let taken = self.queue.take_overdue(now, &Overdue { max: *max, ..Overdue::default() });
                assert!(taken.iter().all(|job| !self.order[&job.id].0), "a job of low priority went elsewhere");
                self.note_taken(OVERFLOW, taken, &before, eligible, *max);
            }
            Event::AcceptedElsewhere { job } => self.queue.accepted_elsewhere(&self.job(*job), "far"),
            Event::BegunElsewhere { job } => {
                self.queue.begun_elsewhere(now, &self.job(*job), Duration::from_secs(5));
            }
            Event::GiveBack { job } => {
                if let Some(job) = self.last.get(&self.job(*job)).cloned() {
                    let taker = self.takers[&job.id];
                    let was_running = self.queue.view(&job.id).map(|view| view.status);
                    self.queue.return_unsent(taker, &job.id, job.attempt);
                    if was_running.is_some_and(|status| !status.is_terminal()) {
                        self.dispatched.remove(&job.id);
                    }
                }
            }
            Event::Finish { worker, job, failed, refresh } => {
                let number = self.jobs.len();
                let outcome = Outcome {
                    ending: Ending {
                        output: Some(payload(&number)),
                        error: failed.then(|| format!("error {number}")),
                        cost: None,
                    },
                    timed_out: *failed && number.is_multiple_of(2),
                    mistake: number.is_multiple_of(3).then_some(CallerMistake::Validation),
                    refresh: *refresh,
                    not_begun: None,
                };
                let id = self.job(*job);
                self.queue.finish(now, WORKERS[*worker], &id, outcome);
            }
            Event::Progress { worker, job } => {
                let id = self.job(*job);
                self.queue.progress(now, WORKERS[*worker], &id, Some(payload("progress")));
            }
            Event::StreamItem { worker, job } => {
                let id = self.job(*job);
                self.queue.stream_item(now, WORKERS[*worker], &id, payload("chunk")).unwrap();
            }
            Event::Heartbeat { worker, jobs, unhealthy } => {
                let jobs = jobs.iter().map(|job| self.job(*job)).collect();
                self.queue.heartbeat(now, WORKERS[*worker], &Heartbeat { jobs, unhealthy: *unhealthy, model: None });
            }
            Event::Cancel { job } => {
                let _ = self.queue.cancel(now, &self.job(*job));
            }
            Event::Retry { job } => {
                let id = self.job(*job);
                if self.queue.retry(now, &id).is_ok() {
                    self.submissions += 1;
                    let low_priority = self.order[&id].0;
                    self.order.insert(Arc::clone(&id), (low_priority, self.submissions));
                    self.ends.remove(&id);
                    self.dispatched.remove(&id);
                }
            }
            Event::Drain { job } => {
                let _ = self.queue.drain(&self.job(*job));
            }
            Event::Purge => {
                self.queue.purge(now, usize::MAX);
            }
            Event::Stops { worker } => {
                self.queue.take_stops(WORKERS[*worker]);
            }
            Event::HandBack { worker, jobs } => {
                let jobs: Vec<_> = jobs.iter().map(|job| self.job(*job)).collect();
                let retries = |queue: &Queue, id: &JobId| queue.view(id).map(|view| view.attempt.retries);
                let before: Vec<_> = jobs.iter().map(|id| retries(&self.queue, id)).collect();
                let running = self.queue.in_progress;
                let handed_back = self.queue.hand_back(now, WORKERS[*worker], &jobs);
                assert_eq!(running - self.queue.in_progress, handed_back);
                for (id, before) in jobs.iter().zip(before) {
                    assert_eq!(retries(&self.queue, id), before, "handing {id} back cost a retry");
                    let waits = self.queue.jobs.get(id).is_some_and(|job| matches!(job.record.state, State::Queued));
                    if waits {
                        self.dispatched.remove(id);
                    }
                }
                assert_eq!(self.queue.hand_back(now, WORKERS[*worker], &jobs), 0, "a repetition did something");
            }
            Event::Goodbye { worker } => self.queue.goodbye(WORKERS[*worker]),
            Event::Gone { worker } => self.queue.worker_event(now, WORKERS[*worker], WorkerEvent::Gone),
            Event::Advance { seconds } => {
                self.now += Duration::from_secs(*seconds);
                self.queue.tick(self.now);
            }
        }
        self.queue.take_effects();
    }

    fn submit(&mut self, low_priority: bool) {
        let id: JobId = format!("job-{}", self.jobs.len()).into();
        let policy = Policy { low_priority, execution_timeout: Some(Duration::from_secs(90)), ..Policy::default() };
        self.queue.submit(self.now, new_job(&id, policy)).unwrap();
        self.submissions += 1;
        self.order.insert(Arc::clone(&id), (low_priority, self.submissions));
        self.jobs.push(id);
    }

    fn take(&mut self, worker: &'static str, max: usize) {
        let before = self.views();
        let eligible = self.queue.is_eligible(worker);
        let taken = self.queue.take(self.now, worker, max);
        self.note_taken(worker, taken, &before, eligible, max);
    }

    fn views(&self) -> HashMap<JobId, JobView> {
        self.jobs.iter().filter_map(|id| Some((id.clone(), self.queue.view(id)?))).collect()
    }

    fn note_taken(
        &mut self,
        worker: &'static str,
        taken: Vec<TakenJob>,
        before: &HashMap<JobId, JobView>,
        eligible: bool,
        max: usize,
    ) {
        assert!(taken.len() <= max);
        assert!(eligible || taken.is_empty(), "a job went to a worker that gets none");
        let mut orders = Vec::new();
        for job in taken {
            let view = &before[&job.id];
            assert!(!view.status.is_terminal(), "{} was delivered after its end", job.id);
            if let Some(retries) = self.dispatched.get(&job.id) {
                assert!(view.attempt.retries > *retries, "{} is held by two workers", job.id);
            }
            self.dispatched.insert(Arc::clone(&job.id), view.attempt.retries);
            self.takers.insert(Arc::clone(&job.id), worker);
            orders.push(self.order[&job.id]);
            self.last.insert(Arc::clone(&job.id), job);
        }
        assert!(orders.is_sorted(), "jobs left the queue out of order: {orders:?}");
        let rest = self.queue.waiting.values().map(|id| self.order[id]).min();
        if let (Some(last), Some(rest)) = (orders.last(), rest) {
            assert!(*last < rest, "a job was overtaken");
        }
    }

    fn check(&mut self) {
        self.check_one_state_each();
        for id in &self.jobs {
            let Some(view) = self.queue.view(id).filter(|view| view.status.is_terminal()) else { continue };
            let end = (view.status, view.ending.output.map(|output| output.get().to_owned()), view.ending.error);
            let first = self.ends.entry(Arc::clone(id)).or_insert_with(|| end.clone());
            assert_eq!(*first, end, "{id} ended twice");
        }
    }

    /// Every job is in exactly one state, and every index agrees with it.
    fn check_one_state_each(&self) {
        let queue = &self.queue;
        let mut waiting = HashSet::new();
        let mut running = HashSet::new();
        let mut size = Size::default();
        for (id, job) in &queue.jobs {
            size += job.size();
            assert_eq!(queue.by_age.get(&job.record.number), Some(id));
            let noted = job.history.transitions().last().map(|last| last.status);
            let stands = match &job.record.state {
                State::Queued => Status::InQueue,
                State::Running(run) if run.waits_elsewhere() => Status::InQueue,
                State::Running(_) | State::Finished { .. } => job.status(),
            };
            assert_eq!(noted, Some(stands), "{id} has a stale history");
            assert_eq!(job.armed, job.deadline(), "{id} has a stale deadline");
            assert!(queue.deadlines.contains(&(job.armed, Arc::clone(id))), "{id} has no deadline");
            assert!(job.deadline() > self.now, "{id} should have moved on");
            match &job.record.state {
                State::Queued => {
                    assert_eq!(queue.waiting.get(&job.record.position), Some(id));
                    waiting.insert(id);
                }
                State::Running(run) => {
                    let holder = queue.workers.get(&run.worker);
                    assert!(holder.is_some_and(|holder| holder.held.contains(id)), "{id} is held by nobody");
                    running.insert(id);
                }
                State::Finished { status, .. } => assert!(status.is_terminal()),
            }
        }
        assert_eq!(queue.waiting.len(), waiting.len());
        assert_eq!(queue.deadlines.len(), queue.jobs.len());
        assert_eq!(queue.by_age.len(), queue.jobs.len());
        assert_eq!(queue.workers.held().collect::<HashSet<_>>(), running);
        assert_eq!(queue.workers.held().count(), queue.in_progress);
        assert_eq!(queue.size, size);
        let totals = &queue.totals;
        assert_eq!((totals.completed, totals.retried), (queue.completed, queue.retried));
        assert_eq!(totals.failed + totals.timed_out, queue.failed);
        assert!(totals.invalid <= totals.failed, "a mistake of a caller is a failure");
        let unfinished = (queue.waiting.len() + queue.in_progress) as u64;
        let ended = totals.completed + totals.failed + totals.timed_out + totals.cancelled + totals.expired;
        assert_eq!(totals.in_queue, unfinished + ended, "a job was counted twice or not at all");
    }
}

proptest! {
    #[test]
    fn jobs_keep_their_rules_under_any_order_of_events(events in prop::collection::vec(event(), 1..80)) {
        let mut observer = Observer::new();
        for event in &events {
            observer.apply(event);
            observer.check();
        }
    }
}
