//! The task that owns all job, slot and process state. It takes one event, lets the [core](runpod_worker_core) decide,
//! performs the effects and publishes a snapshot. It waits for nothing but the next event.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::base::limits;
use crate::heartbeat::{Heartbeat, Pulse};
use crate::metrics::Metrics;
use crate::observer::Observer;
use crate::outbox::Outbox;
use crate::process::Processes;
use crate::queue::hand_back::HandBackHandle;
use crate::queue::poller::PollHandle;
use runpod_worker_core::{Effect, Event, JobId, Policy, PollAnswer, Snapshot, Time, Worker};

limits! {
    "dispatcher";
    /// Events handled before the next snapshot is published.
    const BATCH: usize = 64;
    /// Longest time between two beats of the pulse.
    const PULSE: Duration = Duration::from_secs(2);
    /// Greatest age of the list of held jobs that heartbeats go by. With many jobs the list costs more than an event.
    const HELD_AGE: Duration = Duration::from_millis(50);
}

/// The parts of the worker that perform effects.
#[derive(Debug)]
pub struct EffectHandlers {
    /// Handler processes.
    pub processes: Processes,
    /// The poll task.
    pub poller: PollHandle,
    /// The task that hands jobs back.
    pub hand_backs: HandBackHandle,
    /// Delivery of results.
    pub outbox: Outbox,
    /// The heartbeat thread. It outlives the dispatcher, because results may still be delivered.
    pub heartbeat: Arc<Heartbeat>,
    /// Counters; `None` in the benchmark that measures what counting costs.
    pub metrics: Option<Arc<Metrics>>,
    /// Logs and traces.
    pub observer: Observer,
}

/// The task's state.
#[derive(Debug)]
pub struct Dispatcher {
    worker: Worker,
    handlers: EffectHandlers,
    events: mpsc::Receiver<Event>,
    snapshots: watch::Sender<Snapshot>,
    pulse: Pulse,
    started: Instant,
    held: HeldJobs,
}

/// The list of jobs that the worker holds, as last published.
#[derive(Debug, Default)]
struct HeldJobs {
    ids: Arc<[JobId]>,
    /// When the list was made; `None` before the first one.
    listed_at: Option<Instant>,
    /// Events have been handled since.
    is_behind: bool,
}

impl Dispatcher {
    /// A dispatcher that has done nothing yet. The core counts time from `started`.
    pub fn new(
        policy: Policy,
        handlers: EffectHandlers,
        events: mpsc::Receiver<Event>,
        snapshots: watch::Sender<Snapshot>,
        pulse: Pulse,
        started: std::time::Instant,
    ) -> Self {
        Self {
            worker: Worker::new(policy),
            handlers,
            events,
            snapshots,
            pulse,
            started: started.into(),
            held: HeldJobs::default(),
        }
    }

    /// Runs until the worker is over and returns its exit code.
    pub async fn run(mut self) -> u8 {
        let mut event = Event::Timer;
        loop {
            let mut exit = self.step(event);
            for _ in 1..BATCH {
                match self.events.try_recv() {
                    Ok(next) if exit.is_none() => exit = self.step(next),
                    _ => break,
                }
            }
            self.publish();
            if let Some(code) = exit {
                return code;
            }
            event = self.next_event().await;
        }
    }

    async fn next_event(&mut self) -> Event {
        let idle = Instant::now() + PULSE;
        let next_list = self.held.listed_at.filter(|_| self.held.is_behind).map(|listed_at| listed_at + HELD_AGE);
        let deadline = self.worker.next_deadline().map(|deadline| self.started + deadline.0);
        let due = deadline.into_iter().chain(next_list).fold(idle, Instant::min);
        tokio::select! {
            event = self.events.recv() => event.unwrap_or(Event::Timer),
            () = tokio::time::sleep_until(due) => Event::Timer,
        }
    }

    fn step(&mut self, mut event: Event) -> Option<u8> {
        if let Event::Poll(answer) = &mut event {
            if let Some(metrics) = &self.handlers.metrics {
                metrics.poll(answer);
            }
            if let PollAnswer::Jobs(jobs) = answer {
                self.handlers.observer.taken(jobs);
            }
        }
        let now = Time(self.started.elapsed());
        let mut exit = None;
        for effect in self.worker.handle(now, event) {
            exit = exit.or(self.perform(effect));
        }
        exit
    }

    fn perform(&mut self, effect: Effect) -> Option<u8> {
        match effect {
            Effect::Poll { want, holding } => self.handlers.poller.poll(want, holding),
            Effect::AbortPoll => self.handlers.poller.abort(),
            Effect::Spawn { process, incarnation } => self.handlers.processes.spawn(process, incarnation),
            Effect::Send { process, message, payload } => self.handlers.processes.send(process, &message, payload),
            Effect::Kill { process } => self.handlers.processes.kill(process),
            Effect::Deliver { job, item } => self.handlers.outbox.send(job, item),
            Effect::HandBack { job } => self.handlers.hand_backs.hand_back(job),
            Effect::ReportUnhealthy { check, reason } => {
                self.handlers.heartbeat.report_unhealthy(&check, &reason);
            }
            Effect::Report(report) => {
                self.handlers.observer.observe(&report);
                if let Some(metrics) = &self.handlers.metrics {
                    metrics.observe(&report);
                }
            }
            Effect::Exit { code } => return Some(code),
        }
        None
    }

    fn publish(&mut self) {
        let now = Instant::now();
        self.held.is_behind = self.held.listed_at.is_some_and(|listed_at| now < listed_at + HELD_AGE);
        if !self.held.is_behind {
            self.held = HeldJobs { ids: self.worker.held(), listed_at: Some(now), is_behind: false };
        }
        let snapshot = self.worker.snapshot(Arc::clone(&self.held.ids));
        if let Some(metrics) = &self.handlers.metrics {
            metrics.introduce(snapshot.manifest.as_deref());
        }
        self.snapshots.send_replace(snapshot);
        self.pulse.beat();
    }
}
