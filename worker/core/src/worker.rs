//! The worker as a whole: owns every job, slot and process, and decides what happens next.
//!
//! The files beside this one hold its parts: `schedule.rs` fills slots and polls, `conversation.rs` follows what processes
//! say, `ending.rs` ends jobs, `recovery.rs` deals with dead processes, `shutdown.rs` winds everything down.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::boundary::describe_slowdowns;
use crate::boundary::{
    DeliveryEvent, Effect, Event, GpuSlowdown, GpuTime, JobCounts, JobId, Policy, PollAnswer, PollView, ProcessEvent,
    ProcessId, Report, SlotCounts, Snapshot, Time, Versions, WorkerState,
};
use crate::states::{Job, JobState, Leftovers, Lifecycle, Phase, Poll, Process, Recent, Slot};
use runpod_handler_protocol::{ErrorKind, Manifest};

/// The state machine. Feed it events, perform what it answers.
#[derive(Debug)]
pub struct Worker {
    pub(crate) policy: Policy,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    /// Ids of queued jobs, next first.
    pub(crate) queue: VecDeque<JobId>,
    pub(crate) processes: Vec<Process>,
    pub(crate) poll: Poll,
    pub(crate) lifecycle: Lifecycle,
    /// Results of the last completed jobs, for a queue that sends one again.
    pub(crate) recent: Recent,
    /// Moments of the last crashes.
    pub(crate) crashes: VecDeque<Time>,
    pub(crate) counts: JobCounts,
    pub(crate) failures: BTreeMap<ErrorKind, u64>,
    pub(crate) manifest: Option<Arc<Manifest>>,
    pub(crate) versions: Arc<Versions>,
    /// What the time of the processes went into, up to `spent_until`.
    pub(crate) gpu_time: GpuTime,
    pub(crate) spent_until: Time,
    /// Why no process is serving, as far as known.
    pub(crate) trouble: Option<String>,
    /// The outbox is over its limit, or its disk is broken.
    pub(crate) outbox_full: bool,
    pub(crate) leftovers: Leftovers,
    pub(crate) gpu_slowdowns: Vec<GpuSlowdown>,
    pub(crate) effects: Vec<Effect>,
}

impl Worker {
    /// A worker that has not started anything. The first `Event::Timer` starts its processes.
    pub fn new(policy: Policy) -> Self {
        let processes = (0..policy.processes).map(|index| Process::new(ProcessId(index), policy.slots)).collect();
        Self {
            policy,
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            processes,
            poll: Poll::default(),
            lifecycle: Lifecycle::Working,
            recent: Recent::default(),
            crashes: VecDeque::new(),
            counts: JobCounts::default(),
            failures: BTreeMap::new(),
            manifest: None,
            versions: Arc::default(),
            gpu_time: GpuTime::default(),
            spent_until: Time::default(),
            trouble: None,
            outbox_full: false,
            leftovers: Leftovers::default(),
            gpu_slowdowns: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Takes one event and says what to do, in order.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Effect> {
        self.spend(now);
        match event {
            Event::Poll(answer) => self.poll_ended(now, answer),
            Event::Stop(jobs) => {
                for job in jobs {
                    self.stop_requested(now, &job);
                }
            }
            Event::Process { id, epoch, event } => {
                let known =
                    self.processes.get(id.0).is_some_and(|process| process.epoch == epoch && process.phase.is_alive());
                if known {
                    self.process_event(now, id, event);
                }
            }
            Event::Delivery(event) => self.delivery_event(now, event),
            Event::GpuSlowdowns(gpus) => self.gpus_slowed_down(gpus),
            Event::Drain(cause) => self.begin_drain(now, &cause),
            Event::Abort => self.abort(now),
            Event::Timer => {}
        }
        self.advance(now);
        std::mem::take(&mut self.effects)
    }

    /// When to call [`handle`](Self::handle) with [`Event::Timer`] if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let jobs = self.jobs.values().filter(|job| self.watches(job)).filter_map(Job::next_deadline);
        let processes = self.processes.iter().filter_map(|process| process.next_deadline(&self.policy));
        jobs.chain(processes)
            .chain(self.leftovers.next_deadline())
            .chain(self.poll_deadline())
            .chain(self.leave_deadline())
            .chain(self.shutdown_deadline())
            .chain(self.recycle_deadline())
            .chain(self.probe_deadline())
            .min()
    }

    /// A picture of the worker as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let mut slots = SlotCounts::default();
        for slot in self.processes.iter().flat_map(|process| &process.slots) {
            *match slot {
                Slot::Absent => &mut slots.absent,
                Slot::Loading { .. } => &mut slots.loading,
                Slot::Ready | Slot::Probing { .. } => &mut slots.ready,
                Slot::Busy(_) => &mut slots.busy,
                Slot::Lingering(_) => &mut slots.lingering,
            } += 1;
        }
        let mut jobs = self.counts;
        for job in self.jobs.values() {
            *match job.state {
                JobState::Queued => &mut jobs.in_queue,
                JobState::Assigned(_) | JobState::Running(_) | JobState::Stopping { .. } => &mut jobs.in_progress,
                JobState::Delivering => &mut jobs.delivering,
            } += 1;
        }
        let state = self.state();
        Snapshot {
            state,
            reason: self.reason(state),
            serving: self.is_serving(),
            jobs,
            failures: self.failures.clone(),
            slots,
            poll: PollView { in_flight: self.poll.in_flight, last: self.poll.last },
            processes: self.processes.iter().map(Process::view).collect(),
            held: self.jobs.keys().cloned().collect(),
            manifest: self.manifest.clone(),
            versions: Arc::clone(&self.versions),
            gpu_time: self.gpu_time,
            price: self.price(),
        }
    }

    fn state(&self) -> WorkerState {
        if self.lifecycle.unhealthy_reason().is_some() {
            WorkerState::Unhealthy
        } else if !matches!(self.lifecycle, Lifecycle::Working) {
            WorkerState::Draining
        } else if self.jobs.values().any(|job| job.state != JobState::Delivering) {
            WorkerState::Running
        } else if !self.is_serving() {
            WorkerState::Initializing
        } else if self.poll.throttled || !self.gpu_slowdowns.is_empty() {
            WorkerState::Throttled
        } else if self.poll.begun {
            WorkerState::Idle
        } else {
            WorkerState::Ready
        }
    }

    /// Whether at least one process takes jobs.
    pub(crate) fn is_serving(&self) -> bool {
        self.processes.iter().any(|process| process.phase == Phase::Serving)
    }

    fn reason(&self, state: WorkerState) -> Option<String> {
        match state {
            WorkerState::Unhealthy => self.lifecycle.unhealthy_reason().map(str::to_owned),
            WorkerState::Draining => Some("the worker is shutting down".to_owned()),
            WorkerState::Initializing => Some(self.not_serving()),
            WorkerState::Ready | WorkerState::Idle | WorkerState::Running if !self.is_serving() => {
                Some(self.not_serving())
            }
            WorkerState::Throttled => {
                let queue = self.poll.throttled.then(|| "the queue asked for fewer requests (429)".to_owned());
                let reasons: Vec<String> = queue.into_iter().chain(describe_slowdowns(&self.gpu_slowdowns)).collect();
                Some(reasons.join("; "))
            }
            WorkerState::Ready | WorkerState::Idle | WorkerState::Running if self.outbox_full => {
                let reason = "undelivered results are over their limit or cannot be kept safe, so no job is taken: see \
                              worker.outbox in /health";
                Some(reason.to_owned())
            }
            WorkerState::Ready | WorkerState::Idle | WorkerState::Running if self.leftovers.pending() => {
                Some("results of an earlier run are delivered before any job is taken".to_owned())
            }
            WorkerState::Ready | WorkerState::Idle | WorkerState::Running => describe_slowdowns(&self.gpu_slowdowns),
        }
    }

    fn not_serving(&self) -> String {
        self.trouble.clone().unwrap_or_else(|| "the handler is starting".to_owned())
    }

    fn process_event(&mut self, now: Time, id: ProcessId, event: ProcessEvent) {
        match event {
            ProcessEvent::Spawned { pid } => self.spawned(now, id, pid),
            ProcessEvent::SpawnFailed { reason, permanent } => {
                let process = self.process(id);
                process.hopeless = permanent;
                process.clear();
                self.start_failed(now, id, reason);
            }
            ProcessEvent::Message { message, payload } => self.message(now, id, message, payload),
            ProcessEvent::Oversize { message, payload_len } => self.oversize(now, id, message, payload_len),
            ProcessEvent::BadFrame { reason } => self.broke_protocol(now, id, reason),
            ProcessEvent::Memory { host_bytes } => self.process(id).wear.host_bytes = host_bytes,
            ProcessEvent::Exited(exit) => self.process_gone(now, id, &exit),
        }
    }

    fn delivery_event(&mut self, now: Time, event: DeliveryEvent) {
        match event {
            DeliveryEvent::Chunk { job, attempt, seq } => self.chunk_delivered(&job, attempt, seq),
            DeliveryEvent::Undelivered(jobs) => self.take_leftovers(now, jobs),
            DeliveryEvent::Final { job, accepted } => {
                if accepted {
                    self.leave_with(&job);
                }
                self.leftovers.settled(&job);
                if self.jobs.get(&job).is_some_and(|held| held.state == JobState::Delivering) {
                    self.jobs.remove(&job);
                    self.report(Report::JobDelivered { job, accepted });
                }
            }
            DeliveryEvent::Pressure(full) => self.outbox_full = full,
        }
    }

    /// Everything that follows from the new state or from the time that has passed.
    fn advance(&mut self, now: Time) {
        self.expire_leftovers(now);
        self.expire_jobs(now);
        self.expire_processes(now);
        self.recycle(now);
        self.retire(now);
        self.probe_idle(now);
        self.wind_down(now);
        self.start_processes(now);
        self.assign(now);
        self.leave_or_return(now);
        self.direct_poll(now);
    }

    fn poll_ended(&mut self, now: Time, answer: PollAnswer) {
        self.poll.ended(now, &answer);
        if let PollAnswer::Jobs(jobs) = answer {
            // One answer may name a job twice, and the first of them may be over at once.
            let mut seen = BTreeSet::new();
            for job in &jobs {
                if seen.insert(&job.id) {
                    self.take(now, job);
                } else {
                    self.report(Report::DuplicateJob { job: job.id.clone() });
                }
            }
        }
        self.forget_early_stops();
    }

    fn gpus_slowed_down(&mut self, gpus: Vec<GpuSlowdown>) {
        if self.gpu_slowdowns != gpus {
            self.gpu_slowdowns.clone_from(&gpus);
            self.report(Report::GpuSlowdowns { gpus });
        }
    }

    pub(crate) fn process(&mut self, id: ProcessId) -> &mut Process {
        &mut self.processes[id.0]
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.effects.push(Effect::Report(report));
    }
}
