//! What must hold after every event, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use runpod_handler_protocol::{ErrorKind, ToHandler, ToSupervisor};

use crate::states::JobState;
use crate::states::Lifecycle;
use crate::states::Phase;
use crate::states::Process;
use crate::{
    DeliveryEvent, Effect, Event, JobId, JobStatus, OutboxItem, Policy, PollAnswer, PollBlocker, ProcessEvent, Report,
    Time, Worker,
};

/// A queue that honors `stopPod` considers a name to be a new worker after three seconds without a poll; requests take time.
const AWAY: Duration = Duration::from_secs(5);

/// An account of every job, kept from events and effects alone.
pub(super) struct Ledger {
    pub(super) slots: u32,
    prefetch: usize,
    /// Jobs taken and not yet decided.
    open: BTreeSet<JobId>,
    /// Jobs decided, whose result is not yet accepted.
    decided: BTreeSet<JobId>,
    /// How often each job was taken in and how often it was decided.
    tally: BTreeMap<JobId, (u32, u32)>,
    /// Jobs for which the queue still waits: it has handed them out, and they were neither answered, nor handed back, nor
    /// stopped since.
    owed: BTreeSet<JobId>,
    /// Jobs that have ended here.
    pub(super) ended: BTreeSet<JobId>,
    /// Jobs that were stopped while the poll in flight may bring them.
    early_stops: BTreeSet<JobId>,
    /// Jobs that were stopped since they were taken, or early.
    stopped: BTreeSet<JobId>,
    /// How often each open job was sent to a process, and whether the last of them has begun with it.
    runs: BTreeMap<JobId, (u32, bool)>,
    serving_before: Vec<bool>,
    /// The queue has accepted a result with `stopPod` since the last poll, and considers the worker gone.
    gone: bool,
    /// Since when the worker has held no job after that.
    gone_since: Option<Time>,
}

impl Ledger {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            slots: policy.slots,
            prefetch: policy.prefetch,
            open: BTreeSet::new(),
            decided: BTreeSet::new(),
            tally: BTreeMap::new(),
            owed: BTreeSet::new(),
            ended: BTreeSet::new(),
            early_stops: BTreeSet::new(),
            stopped: BTreeSet::new(),
            runs: BTreeMap::new(),
            serving_before: vec![false; policy.processes],
            gone: false,
            gone_since: None,
        }
    }

    pub(super) fn before(&mut self, worker: &Worker, event: &Event) {
        self.serving_before = worker.processes.iter().map(|process| process.phase == Phase::Serving).collect();
        if let Event::Delivery(DeliveryEvent::Final { job, accepted: true }) = event
            && worker.jobs.get(job).is_some_and(|job| job.stop_pod)
        {
            (self.gone, self.gone_since) = (true, None);
        }
        if let Event::Delivery(DeliveryEvent::Undelivered(jobs)) = event {
            self.decided.extend(jobs.iter().cloned());
        }
        if let Event::Process { event: ProcessEvent::Message { message, .. }, .. } = event
            && let ToSupervisor::Started { job, attempt, .. } | ToSupervisor::Chunk { job, attempt, .. } = message
            && let Some((runs, begun)) = self.runs.get_mut(&JobId::from(job.as_str()))
        {
            *begun |= runs == attempt;
        }
        match event {
            Event::Poll(PollAnswer::Jobs(jobs)) => {
                for job in jobs {
                    let held = worker.jobs.get(&job.id);
                    let is_answered = held.is_some_and(|held| held.state == JobState::Delivering && !held.failed);
                    if !is_answered && !self.early_stops.contains(&job.id) {
                        self.owed.insert(job.id.clone());
                    }
                }
            }
            Event::Stop(jobs) => {
                for job in jobs {
                    self.owed.remove(job);
                    if worker.jobs.contains(job) {
                        self.stopped.insert(job.clone());
                    } else if worker.poll.in_flight && !self.ended.contains(job) {
                        self.early_stops.insert(job.clone());
                    }
                }
            }
            _ => {}
        }
        if matches!(event, Event::Poll(_)) {
            self.stopped.append(&mut self.early_stops);
        }
    }

    pub(super) fn after(&mut self, now: Time, worker: &Worker, effects: &[Effect]) {
        for effect in effects {
            self.effect(now, worker, effect);
        }
        if self.gone && worker.jobs.is_empty() && !worker.poll.in_flight {
            self.gone_since.get_or_insert(now);
        }
        self.a_worker_that_does_not_poll_shows_why(worker);
        self.stopped.retain(|job| worker.jobs.contains(job));
        self.table(worker);
        let dropped = self.owed.iter().find(|job| !worker.jobs.contains(job));
        assert_eq!(dropped, None, "it was taken, and neither answered, handed back nor stopped");
        self.slots_and_jobs_agree(worker);
        all_time_is_accounted_for(worker);
    }

    fn effect(&mut self, now: Time, worker: &Worker, effect: &Effect) {
        match effect {
            Effect::Poll { want, .. } => {
                assert!(matches!(worker.lifecycle, Lifecycle::Working), "polls while shutting down");
                let away = self.gone_since.map(|since| now.since(since)).unwrap_or_default();
                assert!(!self.gone || away >= AWAY, "polls {away:?} after the queue was told that it is gone");
                self.gone = false;
                assert!(!worker.outbox_full, "polls although the outbox is full");
                assert!(!worker.is_delivery_behind(), "polls although many results wait to be posted");
                assert!(
                    !worker.undelivered.delays_polling(),
                    "polls before the results of an earlier run are delivered"
                );
                let ready: usize = worker.processes.iter().map(Process::ready_slots).sum();
                assert!(*want > 0 && *want <= ready + self.prefetch, "asks for {want} jobs with {ready} slots ready");
                assert!(worker.processes.iter().any(|process| process.phase == Phase::Serving), "nothing serves");
            }
            Effect::Send { process, message: ToHandler::Run { job, .. }, .. } => {
                let serving = worker.processes[process.0].phase == Phase::Serving || self.serving_before[process.0];
                assert!(serving, "{job} was sent to a process that does not serve");
                let process = &worker.processes[process.0];
                assert!(process.slots.busy() <= process.slots.usable(), "{job} was sent to a process without room");
                let (runs, begun) = self.runs.entry(JobId::from(job.as_str())).or_default();
                (*runs, *begun) = (*runs + 1, false);
            }
            Effect::Report(Report::JobTaken { job, .. }) => {
                self.tally.entry(job.clone()).or_default().0 += 1;
                assert!(self.open.insert(job.clone()), "{job} was taken twice at once");
                self.owed.insert(job.clone());
            }
            Effect::HandBack { job } => {
                self.owed.remove(job);
            }
            Effect::Report(Report::JobFinished { job, status, error, .. }) => {
                let stopped = self.stopped.remove(job);
                assert!(*status != JobStatus::Cancelled || stopped, "{job} was cancelled, and nobody has stopped it");
                self.ended.insert(job.clone());
                assert!(self.open.remove(job), "{job} was decided twice, or never taken");
                let (runs, begun) = self.runs.remove(job).unwrap_or_default();
                let blamed = error.as_ref().is_some_and(|error| error.kind == ErrorKind::Crashed);
                assert!(!blamed || begun || runs > 2, "{job} is blamed for a crash and was not begun");
                self.tally.entry(job.clone()).or_default().1 += 1;
            }
            Effect::Deliver { job, item } => match item {
                OutboxItem::Chunk { .. } | OutboxItem::Progress(_) => {
                    assert!(self.open.contains(job), "{job} posts something after its end");
                }
                OutboxItem::Final(_) => {
                    self.owed.remove(job);
                    assert!(self.decided.insert(job.clone()), "{job} has two results at once");
                }
                OutboxItem::Discard => {}
            },
            Effect::Report(Report::JobDelivered { job, .. }) => {
                assert!(self.decided.remove(job), "{job} was delivered without a result");
            }
            _ => {}
        }
    }

    /// Every job is in the table or closed exactly once; the heartbeat lists exactly those that are not closed.
    fn table(&self, worker: &Worker) {
        let held: BTreeSet<JobId> = worker.held().iter().cloned().collect();
        let expected: BTreeSet<JobId> = self.open.union(&self.decided).cloned().collect();
        assert_eq!(held, expected, "the heartbeat must list the jobs that are not closed");
        for (job, (taken, decided)) in &self.tally {
            let open = u32::from(self.open.contains(job));
            assert_eq!(*taken, decided + open, "{job}: taken {taken} times, decided {decided} times, open {open}");
        }
    }

    /// Without a request for jobs there is a reason, and `/health` shows it.
    fn a_worker_that_does_not_poll_shows_why(&self, worker: &Worker) {
        let snapshot = worker.snapshot(worker.held());
        match snapshot.poll.blocked_by {
            None => assert!(snapshot.poll.in_flight, "no job is asked for, without a reason"),
            // The slots in the snapshot show it.
            Some(PollBlocker::NoFreeSlot) => {
                let ready: usize = worker.processes.iter().map(Process::ready_slots).sum();
                assert!(ready + self.prefetch <= worker.waiting.len(), "no job is asked for although a slot is free");
            }
            // A busy worker is behind for moments only. `blockedBy` shows it, beside the results that wait.
            Some(PollBlocker::DeliveryBehind) => assert!(worker.is_delivery_behind(), "nothing waits to be posted"),
            Some(blocker) => assert!(snapshot.reason.is_some(), "{blocker:?} is not shown"),
        }
    }

    fn slots_and_jobs_agree(&self, worker: &Worker) {
        let mut in_slots = BTreeSet::new();
        for process in &worker.processes {
            for (slot, index) in process.slots.iter().zip(0..) {
                let Some(id) = slot.job() else { continue };
                assert!(in_slots.insert(id.clone()), "{id} is in two slots");
                let slot_of = worker.jobs.get(id).and_then(crate::states::Job::slot);
                assert_eq!(
                    slot_of.map(|slot| (slot.process, slot.slot)),
                    Some((process.id, index)),
                    "slot and job disagree about {id}"
                );
            }
        }
        worker.jobs.check();
        for job in worker.jobs.iter() {
            assert_eq!(job.slot().is_some(), in_slots.contains(&job.id), "{} thinks that it is in a slot", job.id);
            let queued = worker.waiting.iter().filter(|id| **id == job.id).count();
            assert_eq!(queued, usize::from(job.state == JobState::Queued), "{} is in the queue {queued} times", job.id);
            assert!(job.attempt <= 5, "{} was run {} times", job.id, job.attempt);
        }
        assert!(worker.waiting.iter().all(|id| worker.jobs.contains(id)), "a closed job waits");
    }
}

/// Every moment of every process has one use, or belongs to a job that still runs.
fn all_time_is_accounted_for(worker: &Worker) {
    let running: Duration =
        worker.jobs.iter().filter(|job| job.state != JobState::Delivering).map(|job| worker.gpu_time_of(job)).sum();
    let accounted = worker.gpu_time.total() + running;
    let passed = worker.accounted_until.0 * u32::try_from(worker.processes.len()).unwrap();
    // Shares are rounded down to nanoseconds.
    let lost = passed.checked_sub(accounted).expect("more time is accounted for than has passed");
    assert!(lost < Duration::from_millis(1), "{lost:?} of {passed:?} are not accounted for");
}
