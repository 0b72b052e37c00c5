//! The worker as a whole. It owns every job, slot and process; the rule files beside this one decide what happens to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use runpod_handler_protocol::{ErrorKind, Manifest};

use crate::boundary::{
    DeliveryEvent, Effect, Event, GpuSlowdown, GpuTime, JobCounts, JobId, Policy, ProcessEvent, ProcessId, Report,
    Time, Versions,
};
use crate::states::{
    DeliveredJob, EndedJobs, JobState, Jobs, Lifecycle, Poll, Process, RecentResults, UndeliveredResults,
};

/// The state machine: takes events, returns effects.
#[derive(Debug)]
pub struct Worker {
    pub(crate) policy: Policy,
    /// Every job that is not closed.
    pub(crate) jobs: Jobs,
    /// Ids of the jobs that wait for a slot, next first.
    pub(crate) waiting: VecDeque<JobId>,
    pub(crate) processes: Vec<Process>,
    pub(crate) poll: Poll,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) recent: RecentResults,
    pub(crate) ended: EndedJobs,
    /// Times of the crashes within the crash window.
    pub(crate) crashes: VecDeque<Time>,
    pub(crate) counts: JobCounts,
    pub(crate) failures: BTreeMap<ErrorKind, u64>,
    pub(crate) manifest: Option<Arc<Manifest>>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) gpu_time: GpuTime,
    /// Until when `gpu_time` and the jobs account for the time of all processes.
    pub(crate) accounted_until: Time,
    /// Why no process serves, if that is known.
    pub(crate) trouble: Option<String>,
    /// The outbox is over its limit, or its disk does not work.
    pub(crate) outbox_full: bool,
    /// Many results wait for their turn to be posted.
    pub(crate) delivery_behind: bool,
    /// The times of the job whose result was delivered last.
    pub(crate) delivered_last: DeliveredJob,
    pub(crate) undelivered: UndeliveredResults,
    pub(crate) gpu_slowdowns: Vec<GpuSlowdown>,
    /// Effects of the event at hand.
    effects: Vec<Effect>,
}

impl Worker {
    /// A worker that has started nothing yet. The first [`Event::Timer`] starts its processes.
    pub fn new(policy: Policy) -> Self {
        let processes = (0..policy.processes).map(|index| Process::new(ProcessId(index), policy.slots)).collect();
        let recent = RecentResults::new(policy.recent_results, policy.recent_bytes);
        let ended = EndedJobs::new(policy.ended_jobs);
        Self {
            policy,
            jobs: Jobs::default(),
            waiting: VecDeque::new(),
            processes,
            poll: Poll::default(),
            lifecycle: Lifecycle::Working,
            recent,
            ended,
            crashes: VecDeque::new(),
            counts: JobCounts::default(),
            failures: BTreeMap::new(),
            manifest: None,
            versions: Arc::default(),
            gpu_time: GpuTime::default(),
            accounted_until: Time::default(),
            trouble: None,
            outbox_full: false,
            delivery_behind: false,
            delivered_last: DeliveredJob::default(),
            undelivered: UndeliveredResults::default(),
            gpu_slowdowns: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Takes one event and returns what to do, in order. `now` never decreases from call to call.
    #[must_use = "effects that are not performed leave the worker waiting for their outcome"]
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Effect> {
        self.account_time(now);
        match event {
            Event::Poll(answer) => self.poll_ended(now, answer),
            Event::PollAgain => self.poll.end_pause(now),
            Event::Stop(jobs) => {
                for job in jobs {
                    self.stop_requested(now, &job);
                }
            }
            Event::Process { id, incarnation, event } => {
                let current = self
                    .processes
                    .get(id.0)
                    .is_some_and(|process| process.incarnation == incarnation && process.phase.is_alive());
                if current {
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

    /// When to call [`handle`](Self::handle) with [`Event::Timer`], if no other event comes before.
    pub fn next_deadline(&self) -> Option<Time> {
        let jobs =
            self.jobs.by_deadline().find(|(_, job)| self.job_deadline_applies(job)).map(|(deadline, _)| deadline);
        let processes = self.processes.iter().filter_map(|process| process.next_deadline(&self.policy));
        jobs.into_iter()
            .chain(processes)
            .chain(self.undelivered.next_deadline())
            .chain(self.poll_deadline())
            .chain(self.absence_deadline())
            .chain(self.shutdown_deadline())
            .chain(self.recycle_deadline())
            .chain(self.probe_deadline())
            .min()
    }

    /// Everything that follows from the new state, or from the time that has passed. The order of the steps matters: each
    /// acts on what the steps before it have decided, so that one pass is enough.
    fn advance(&mut self, now: Time) {
        // First what only time ends. Jobs come before processes: a job that overran its grace makes its process retire.
        self.expire_undelivered(now);
        self.expire_jobs(now);
        self.expire_processes(now);
        // A worn process retires before `retire` looks at retiring ones, so that an idle one is killed at once.
        self.recycle(now);
        self.retire(now);
        // Probes only go to processes that the steps above have left serving.
        self.probe_idle(now);
        // The shutdown acts on the jobs and processes that are left, and decides whether a process may start.
        self.wind_down(now);
        self.start_processes(now);
        // Jobs are assigned once it is settled which processes serve.
        self.assign(now);
        // Polling comes last: how many jobs to ask for depends on the slots that are still free.
        self.update_absence(now);
        self.update_poll(now);
    }

    fn process_event(&mut self, now: Time, id: ProcessId, event: ProcessEvent) {
        match event {
            ProcessEvent::Spawned { pid } => self.spawned(now, id, pid),
            ProcessEvent::SpawnFailed { reason, permanent } => self.spawn_failed(now, id, reason, permanent),
            ProcessEvent::Message { message, payload } => self.message(now, id, message, payload),
            ProcessEvent::Oversize { message, payload_len } => self.oversize(now, id, message, payload_len),
            ProcessEvent::BadFrame { reason } => self.violated_protocol(now, id, reason),
            ProcessEvent::Memory { host_bytes } => self.process(id).wear.host_bytes = host_bytes,
            ProcessEvent::Exited(exit) => self.process_exited(now, id, &exit),
        }
    }

    fn delivery_event(&mut self, now: Time, event: DeliveryEvent) {
        match event {
            DeliveryEvent::Chunk { job, attempt, seq } => self.chunk_delivered(&job, attempt, seq),
            DeliveryEvent::Undelivered(jobs) => self.undelivered_found(now, jobs),
            DeliveryEvent::Final { job, accepted } => {
                if accepted {
                    self.stop_pod_delivered(&job);
                }
                self.undelivered.settled(&job);
                if let Some(held) = self.jobs.get(&job).filter(|held| held.state == JobState::Delivering) {
                    self.delivered_last = DeliveredJob::of(held, now);
                    self.report(Report::JobDelivered { job: job.clone(), accepted });
                    self.close_job(now, &job);
                }
            }
            DeliveryEvent::Full(full) => self.outbox_full = full,
            DeliveryEvent::Behind(behind) => self.delivery_behind = behind,
        }
    }

    fn gpus_slowed_down(&mut self, gpus: Vec<GpuSlowdown>) {
        if self.gpu_slowdowns != gpus {
            self.gpu_slowdowns.clone_from(&gpus);
            self.report(Report::GpuSlowdowns { gpus });
        }
    }

    /// The process with this id. Ids of events are checked before, all others come from `processes` itself.
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
