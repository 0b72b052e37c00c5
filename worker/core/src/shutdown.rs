//! Winding down: no more polls, running jobs finish within the drain grace, then are asked to stop, then killed; results
//! are flushed; the worker exits. Every step has a limit, so the sequence always ends. A worker that ends because a job asked
//! for a fresh one gives the other jobs their own time, as RunPod's SDK does.

use crate::boundary::{DrainCause, Effect, JobId, ProcessId, Report, Time};
use crate::ending::{Extras, Outcome};
use crate::states::{JobState, KillCause, Lifecycle, Phase};
use crate::worker::Worker;
use runpod_handler_protocol::{CancelReason, ToHandler};

/// How much longer than asked an aborted poll may take to say so.
const POLL_OVERRUN: std::time::Duration = std::time::Duration::from_secs(2);
/// What is left of the flush after a second signal.
const HURRIED_FLUSH: std::time::Duration = std::time::Duration::from_secs(1);

impl Worker {
    /// Begins to wind down. A worker that is already doing so can still turn unhealthy.
    pub(crate) fn begin_drain(&mut self, now: Time, cause: &DrainCause) {
        let mut reason = None;
        let words = match cause {
            DrainCause::Signal => "asked to stop",
            DrainCause::Refresh => "a fresh worker is wanted after this job",
            DrainCause::Unhealthy { reason, .. } => reason,
        };
        if let DrainCause::Unhealthy { check, reason: why } = cause {
            if self.lifecycle.unhealthy_reason().is_some() || matches!(self.lifecycle, Lifecycle::Over { .. }) {
                return;
            }
            reason = Some(why.clone());
            self.emit(Effect::ReportUnhealthy { check: check.clone(), reason: why.clone() });
        }
        // Nobody waits for the end of a worker that asked to be replaced.
        let limit = (!matches!(cause, DrainCause::Refresh)).then_some(now + self.policy.drain_grace);
        match &mut self.lifecycle {
            Lifecycle::Working => {
                self.report(Report::Draining { reason: words.to_owned() });
                self.lifecycle = Lifecycle::Draining {
                    unhealthy: reason,
                    poll_until: now + self.policy.poll_grace,
                    cancel_at: limit,
                    cancelled: false,
                    hurried: false,
                };
            }
            Lifecycle::Draining { unhealthy, cancel_at, .. } => {
                *cancel_at = cancel_at.iter().copied().chain(limit).min();
                *unhealthy = reason.or(unhealthy.take());
            }
            Lifecycle::Closing { unhealthy, .. } => *unhealthy = reason.or(unhealthy.take()),
            Lifecycle::Over { .. } => {}
        }
    }

    /// A second signal: no grace any more.
    pub(crate) fn abort(&mut self, now: Time) {
        self.begin_drain(now, &DrainCause::Signal);
        match &mut self.lifecycle {
            Lifecycle::Draining { cancel_at, poll_until, hurried, .. } => {
                *cancel_at = Some(now);
                *poll_until = now;
                *hurried = true;
                self.stop_everything(now);
            }
            Lifecycle::Closing { flush_until, .. } => *flush_until = (*flush_until).min(now + HURRIED_FLUSH),
            Lifecycle::Working | Lifecycle::Over { .. } => {}
        }
        for index in 0..self.processes.len() {
            self.kill(now, ProcessId(index), &KillCause::Shutdown);
        }
    }

    /// Moves the shutdown along.
    pub(crate) fn wind_down(&mut self, now: Time) {
        if let Lifecycle::Draining { poll_until, cancel_at, .. } = self.lifecycle {
            self.park_processes();
            if cancel_at.is_some_and(|cancel_at| now >= cancel_at)
                || !self.processes.iter().any(|process| self.may_yet_serve(&process.phase))
            {
                self.stop_everything(now);
            }
            if now >= poll_until {
                self.abort_poll();
            }
            if self.poll.in_flight && now >= poll_until + POLL_OVERRUN {
                self.report(Report::ShutdownOverrun { part: "poll" });
                self.poll.in_flight = false;
            }
            if !self.poll.in_flight && self.jobs.values().all(|job| job.state == JobState::Delivering) {
                self.close(now);
            }
        }
        if let Lifecycle::Closing { flush_until, .. } = self.lifecycle {
            if self.processes.iter().any(|process| process.phase.is_alive()) {
                return;
            }
            if !self.jobs.is_empty() && now < flush_until {
                return;
            }
            if !self.jobs.is_empty() {
                self.report(Report::ShutdownOverrun { part: "outbox" });
            }
            let unhealthy = self.lifecycle.unhealthy_reason().map(str::to_owned);
            let code = u8::from(unhealthy.is_some());
            self.lifecycle = Lifecycle::Over { unhealthy };
            self.emit(Effect::Exit { code });
        }
    }

    /// When the shutdown needs attention. Living processes and running jobs have limits of their own.
    pub(crate) fn shutdown_deadline(&self) -> Option<Time> {
        match self.lifecycle {
            Lifecycle::Working | Lifecycle::Over { .. } => None,
            Lifecycle::Draining { poll_until, cancel_at, cancelled, .. } => {
                let poll = self
                    .poll
                    .in_flight
                    .then(|| if self.poll.is_aborted() { poll_until + POLL_OVERRUN } else { poll_until });
                let cancel = cancel_at.filter(|_| !cancelled);
                poll.into_iter().chain(cancel).min()
            }
            Lifecycle::Closing { flush_until, .. } => {
                let ended = !self.processes.iter().any(|process| process.phase.is_alive());
                (ended && !self.jobs.is_empty()).then_some(flush_until)
            }
        }
    }

    /// Whether a dead process is to be started again.
    pub(crate) fn may_start(&self) -> bool {
        match &self.lifecycle {
            Lifecycle::Working => true,
            Lifecycle::Draining { unhealthy, cancelled, .. } => {
                unhealthy.is_none() && !cancelled && !self.queue.is_empty()
            }
            Lifecycle::Closing { .. } | Lifecycle::Over { .. } => false,
        }
    }

    /// Whether a process that has just ended may have a successor at all.
    pub(crate) fn wants_processes(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Working | Lifecycle::Draining { cancelled: false, unhealthy: None, .. })
    }

    fn may_yet_serve(&self, phase: &Phase) -> bool {
        match phase {
            Phase::Spawning { .. } | Phase::Handshaking { .. } | Phase::Loading | Phase::Serving => true,
            Phase::Retiring { .. } | Phase::Killing { .. } => !self.jobs.values().all(|job| job.place().is_none()),
            Phase::Backoff { .. } => self.may_start(),
            Phase::Stopped | Phase::GaveUp => false,
        }
    }

    /// Processes that wait for a restart which will not come are done.
    fn park_processes(&mut self) {
        if self.may_start() {
            return;
        }
        for process in &mut self.processes {
            if matches!(process.phase, Phase::Backoff { .. }) {
                process.phase = Phase::Stopped;
            }
        }
    }

    /// The drain is over: running jobs are asked to stop, queued ones are left to another worker.
    fn stop_everything(&mut self, now: Time) {
        if let Lifecycle::Draining { cancelled, .. } = &mut self.lifecycle {
            *cancelled = true;
        }
        for id in self.queue.clone() {
            self.finish(now, &id, Outcome::HandedBack, Extras::default());
        }
        let running: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| matches!(job.state, JobState::Assigned(_) | JobState::Running(_)))
            .map(|job| job.id.clone())
            .collect();
        for id in running {
            self.ask_to_stop(now, &id, CancelReason::Drain);
        }
    }

    /// No job runs any more: processes are told to exit, results get their last time limit.
    fn close(&mut self, now: Time) {
        let Lifecycle::Draining { unhealthy, hurried, .. } = self.lifecycle.clone() else { return };
        let flush = if hurried { HURRIED_FLUSH } else { self.policy.flush_grace };
        self.lifecycle = Lifecycle::Closing { unhealthy, flush_until: now + flush };
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let until = now + self.policy.exit_timeout;
            let process = self.process(id);
            match process.phase {
                Phase::Loading | Phase::Serving => {
                    process.phase = Phase::Retiring { cause: KillCause::Shutdown, until };
                    self.emit(Effect::Send { process: id, message: ToHandler::Shutdown, payload: bytes::Bytes::new() });
                }
                Phase::Spawning { .. } | Phase::Handshaking { .. } | Phase::Retiring { .. } => {
                    self.kill(now, id, &KillCause::Shutdown);
                }
                Phase::Backoff { .. } => process.phase = Phase::Stopped,
                Phase::Killing { .. } | Phase::Stopped | Phase::GaveUp => {}
            }
        }
    }
}
