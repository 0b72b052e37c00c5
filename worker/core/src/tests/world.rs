//! A simulated world around a worker. It keeps what the worker has asked for, so that a test can answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ErrorReport, Manifest, PROTOCOL_VERSION, ToHandler, ToSupervisor};
use serde_json::json;

use super::invariants::Ledger;
use crate::{
    DeliveryEvent, DrainCause, Effect, Event, Exit, ExitReason, FinalResult, Incarnation, JobId, OutboxItem, Policy,
    PollAnswer, ProcessEvent, ProcessId, Report, Snapshot, TakenJob, Time, Worker,
};

/// A run that a process was told to start and has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) process: ProcessId,
    pub(super) job: String,
    pub(super) attempt: u32,
    pub(super) slot: u32,
    pub(super) seq: u64,
}

pub(super) struct World {
    pub(super) worker: Worker,
    pub(super) now: Time,
    /// Live incarnation of each process; `None` when the operating system has none.
    pub(super) alive: Vec<Option<Incarnation>>,
    /// Processes that were killed and have not exited yet.
    pub(super) killed: Vec<bool>,
    pub(super) runs: Vec<Run>,
    /// The poll in flight.
    pub(super) poll: Option<usize>,
    /// Finals handed to the outbox and not answered.
    pub(super) finals: Vec<(JobId, FinalResult)>,
    pub(super) exit: Option<u8>,
    /// Jobs that were handed back to the queue.
    pub(super) handed_back: Vec<String>,
    /// Failed checks that were reported to the platform.
    pub(super) unhealthy: Vec<String>,
    /// The device that processes report.
    pub(super) device: &'static str,
    pub(super) reports: Vec<Report>,
    pub(super) sent: Vec<(ProcessId, ToHandler)>,
    /// Whether processes answer pings while time passes.
    pub(super) answers_pings: bool,
    pub(super) ledger: Ledger,
}

impl World {
    pub(super) fn new(policy: Policy) -> Self {
        let processes = policy.processes;
        let ledger = Ledger::new(&policy);
        let mut world = Self {
            worker: Worker::new(policy),
            now: Time::default(),
            alive: vec![None; processes],
            killed: vec![false; processes],
            runs: Vec::new(),
            poll: None,
            finals: Vec::new(),
            exit: None,
            handed_back: Vec::new(),
            unhealthy: Vec::new(),
            device: "cpu",
            reports: Vec::new(),
            sent: Vec::new(),
            answers_pings: true,
            ledger,
        };
        world.feed(Event::Timer);
        world
    }

    /// One process, one slot, serving and polling.
    pub(super) fn serving() -> Self {
        Self::serving_with(Policy::default())
    }

    pub(super) fn serving_with(policy: Policy) -> Self {
        let processes = policy.processes;
        let mut world = Self::new(policy);
        for index in 0..processes {
            world.bring_up(index);
        }
        world
    }

    /// An earlier run left the results of these jobs.
    pub(super) fn leave_undelivered(&mut self, jobs: &[String]) {
        let jobs: Vec<JobId> = jobs.iter().map(|job| job.as_str().into()).collect();
        let result = FinalResult { result: Ok("1".into()), streamed: false, stop_pod: false, cost: None };
        self.finals.extend(jobs.iter().map(|job| (job.clone(), result.clone())));
        self.feed(Event::Delivery(DeliveryEvent::Undelivered(jobs)));
    }

    pub(super) fn bring_up(&mut self, index: usize) {
        self.process(index, ProcessEvent::Spawned { pid: 100 });
        self.hello(index, PROTOCOL_VERSION, false);
        for slot in 0..self.ledger.slots {
            self.loaded(index, slot);
        }
    }

    /// Feeds an event, performs its effects on the simulated world and checks every invariant.
    pub(super) fn feed(&mut self, event: Event) {
        self.ledger.before(&self.worker, &event);
        if matches!(event, Event::Poll(_)) {
            self.poll = None;
        }
        let effects = self.worker.handle(self.now, event);
        for effect in &effects {
            self.perform(effect);
        }
        self.ledger.after(self.now, &self.worker, &effects);
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Poll { want, .. } => {
                assert!(self.poll.is_none(), "two polls at once");
                self.poll = Some(*want);
            }
            Effect::AbortPoll => assert!(self.poll.is_some(), "nothing to abort"),
            Effect::Spawn { process, incarnation } => {
                assert!(self.alive[process.0].is_none(), "{process} started while its predecessor lives");
                self.alive[process.0] = Some(*incarnation);
                self.killed[process.0] = false;
            }
            Effect::Send { process, message, .. } => {
                if let ToHandler::Run { job, attempt, slot, .. } = message {
                    let (job, attempt, slot) = (job.clone(), *attempt, *slot);
                    self.runs.push(Run { process: *process, job, attempt, slot, seq: 0 });
                }
                self.sent.push((*process, message.clone()));
            }
            Effect::Kill { process } => self.killed[process.0] = true,
            Effect::Deliver { job, item } => {
                if let OutboxItem::Final(result) = item {
                    self.finals.push((job.clone(), result.clone()));
                }
            }
            Effect::HandBack { job } => self.handed_back.push(job.to_string()),
            Effect::Report(report) => self.reports.push(report.clone()),
            Effect::ReportUnhealthy { check, .. } => self.unhealthy.push(check.to_string()),
            Effect::Exit { code } => {
                assert!(self.exit.is_none(), "two exits");
                self.exit = Some(*code);
            }
        }
    }

    // Events.

    pub(super) fn process(&mut self, index: usize, event: ProcessEvent) {
        let Some(incarnation) = self.alive[index] else { return };
        if matches!(event, ProcessEvent::Exited(_) | ProcessEvent::SpawnFailed { .. }) {
            self.alive[index] = None;
            self.killed[index] = false;
            self.runs.retain(|run| run.process.0 != index);
        }
        self.feed(Event::Process { id: ProcessId(index), incarnation, event });
    }

    pub(super) fn say(&mut self, index: usize, message: ToSupervisor, payload: Bytes) {
        self.process(index, ProcessEvent::Message { message, payload });
    }

    pub(super) fn hello(&mut self, index: usize, protocol: u32, idempotent: bool) {
        self.introduce(index, protocol, idempotent, None);
    }

    /// Says hello with the manifest of a handler that may run jobs in batches.
    pub(super) fn introduce(&mut self, index: usize, protocol: u32, idempotent: bool, max_batch_items: Option<u32>) {
        let manifest = Manifest { idempotent, max_batch_items, ..manifest() };
        self.greet(index, protocol, &manifest);
    }

    /// Comes to serve as an async handler that runs this many jobs at the same time.
    pub(super) fn bring_up_async(&mut self, index: usize, jobs: u32) {
        self.begin_async(index, jobs);
        self.loaded(index, 0);
    }

    /// Introduces itself as an async handler that runs this many jobs at the same time, and loads.
    pub(super) fn begin_async(&mut self, index: usize, jobs: u32) {
        self.process(index, ProcessEvent::Spawned { pid: 100 });
        self.greet(index, PROTOCOL_VERSION, &Manifest { max_concurrency: Some(jobs), ..manifest() });
    }

    fn greet(&mut self, index: usize, protocol: u32, manifest: &Manifest) {
        let payload = serde_json::to_vec(manifest).unwrap().into();
        self.say(index, ToSupervisor::Hello { protocol, sdk_version: "0.1.0".into() }, payload);
    }

    pub(super) fn loaded(&mut self, index: usize, slot: u32) {
        let device = self.device.to_owned();
        self.say(index, ToSupervisor::Loaded { slot, device, millis: 5, warm_up_millis: 2 }, Bytes::new());
    }

    /// An async handler runs this many jobs at the same time from now on.
    pub(super) fn concurrency(&mut self, index: usize, jobs: u32) {
        self.say(index, ToSupervisor::Concurrency { jobs }, Bytes::new());
    }

    pub(super) fn arrive(&mut self, ids: &[&str]) {
        assert!(self.poll.is_some(), "no poll in flight");
        let jobs = ids.iter().map(|id| taken(id)).collect();
        self.feed(Event::Poll(PollAnswer::Jobs(jobs)));
    }

    pub(super) fn started(&mut self, job: &str) {
        self.started_in(job, None);
    }

    /// A model begins with a job.
    pub(super) fn started_in(&mut self, job: &str, model: Option<u32>) {
        let run = self.run_of(job);
        let message = ToSupervisor::Started { job: run.job, attempt: run.attempt, model };
        self.say(run.process.0, message, Bytes::new());
    }

    pub(super) fn chunk(&mut self, job: &str) {
        let mut run = self.run_of(job);
        run.seq += 1;
        let message = ToSupervisor::Chunk { job: run.job.clone(), attempt: run.attempt, seq: run.seq };
        self.runs.iter_mut().filter(|known| known.job == run.job).for_each(|known| known.seq = run.seq);
        self.say(run.process.0, message, Bytes::from_static(b"1"));
    }

    pub(super) fn done(&mut self, job: &str) {
        self.done_with(job, false, BTreeMap::new());
    }

    pub(super) fn done_with(&mut self, job: &str, refresh: bool, records: BTreeMap<String, f64>) {
        let run = self.answer(job);
        let (job, attempt) = (run.job, run.attempt);
        let message = ToSupervisor::Done { job, attempt, refresh, records };
        self.say(run.process.0, message, Bytes::from_static(b"42"));
    }

    pub(super) fn failed(&mut self, job: &str, kind: ErrorKind, reloading: bool) {
        let run = self.answer(job);
        let report = ErrorReport { kind, message: "told to".into(), traceback: String::new() };
        let message = ToSupervisor::Failed { job: run.job, attempt: run.attempt, refresh: false, reloading };
        self.say(run.process.0, message, serde_json::to_vec(&report).unwrap().into());
    }

    pub(super) fn die(&mut self, index: usize, status: ExitReason) {
        let exit = Exit { status, host_oom: false, last_lines: vec!["last words".into()] };
        self.process(index, ProcessEvent::Exited(exit));
    }

    pub(super) fn stop(&mut self, job: &str) {
        self.feed(Event::Stop(vec![job.into()]));
    }

    pub(super) fn drain(&mut self) {
        self.feed(Event::Drain(DrainCause::Signal));
    }

    pub(super) fn deliver(&mut self, index: usize) {
        let (job, _) = self.finals.remove(index);
        self.feed(Event::Delivery(DeliveryEvent::Final { job, accepted: true }));
    }

    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.worker.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.feed(Event::Timer);
            self.answer_pings();
            let next = self.worker.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "a timer that fired is still due: {next:?}");
        }
        self.now = end;
    }

    fn answer_pings(&mut self) {
        let pinged = self.sent.iter().any(|(_, message)| matches!(message, ToHandler::Ping { .. }));
        if !pinged || !self.answers_pings {
            return;
        }
        self.sent.retain(|(_, message)| !matches!(message, ToHandler::Ping { .. }));
        for index in 0..self.alive.len() {
            self.say(index, ToSupervisor::Pong { seq: 1 }, Bytes::new());
        }
    }

    // Questions.

    pub(super) fn snapshot(&self) -> Snapshot {
        self.worker.snapshot(self.worker.held())
    }

    pub(super) fn run_of(&self, job: &str) -> Run {
        self.runs.iter().find(|run| run.job == job).cloned().unwrap_or_else(|| panic!("{job} is not running"))
    }

    /// The runs under way, as `job/attempt`.
    pub(super) fn running(&self) -> Vec<String> {
        self.runs.iter().map(|run| format!("{}/{}", run.job, run.attempt)).collect()
    }

    /// The result posted for a job: its output, or the kind of its error.
    pub(super) fn result(&self, job: &str) -> Option<Result<Bytes, ErrorKind>> {
        let posted = self.finals.iter().rev().find(|(id, _)| id.as_str() == job)?;
        Some(posted.1.result.clone().map_err(|error| error.kind))
    }

    pub(super) fn was_sent(&self, matches: impl Fn(&ToHandler) -> bool) -> bool {
        self.sent.iter().any(|(_, message)| matches(message))
    }

    fn answer(&mut self, job: &str) -> Run {
        let run = self.run_of(job);
        self.runs.retain(|known| *known != run);
        run
    }
}

fn manifest() -> Manifest {
    Manifest {
        name: "puppet".into(),
        version: "1.0.0".into(),
        idempotent: false,
        streams: true,
        input_schema: json!({}),
        output_schema: json!({}),
        chunk_schema: None,
        max_batch_items: None,
        max_waiting_items: None,
        max_concurrency: None,
    }
}

pub(super) fn taken(id: &str) -> TakenJob {
    TakenJob::new(id.into(), Ok(Bytes::from_static(b"{}")))
}
