//! Rule: how the worker shuts down. It stops polling; running jobs finish within the drain grace, then are asked to stop,
//! then are killed with their process; results are delivered; the worker exits. Every step has a limit, so the sequence always
//! ends. When a job has asked for a fresh worker there is no drain grace: the other jobs keep their own deadlines, as with
//! RunPod's SDK.

use bytes::Bytes;
use runpod_handler_protocol::{StopReason, ToHandler};

use crate::boundary::{DrainCause, Effect, JobId, ProcessId, Report, Time};
use crate::ending::{Extras, Outcome};
use crate::states::{Job, JobState, KillCause, Lifecycle, Phase};
use crate::worker::Worker;

impl Worker {
    /// Begins a shutdown. If one is under way already, the worker can still become unhealthy, and a signal can still limit
    /// the time of its jobs.
    pub(crate) fn begin_drain(&mut self, now: Time, cause: &DrainCause) {
        let mut new_reason = None;
        if let DrainCause::Unhealthy { check, reason } = cause {
            if self.lifecycle.unhealthy_reason().is_some() || matches!(self.lifecycle, Lifecycle::Over { .. }) {
                return;
            }
            new_reason = Some(reason.clone());
            self.emit(Effect::ReportUnhealthy { check: check.clone(), reason: reason.clone() });
        }
        let by_signal = *cause == DrainCause::Signal;
        let limit = (!matches!(cause, DrainCause::Refresh)).then_some(now + self.policy.drain_grace);
        match &mut self.lifecycle {
            Lifecycle::Working => {
                self.lifecycle = Lifecycle::Draining {
                    unhealthy: new_reason,
                    poll_until: now + self.policy.poll_grace,
                    cancel_at: limit,
                    cancelled: false,
                    signalled: by_signal,
                    aborted: false,
                };
                self.report(Report::Draining { reason: description(cause).to_owned() });
            }
            Lifecycle::Draining { unhealthy, cancel_at, signalled, .. } => {
                *cancel_at = cancel_at.iter().copied().chain(limit).min();
                *unhealthy = new_reason.or(unhealthy.take());
                *signalled |= by_signal;
            }
            Lifecycle::Closing { unhealthy, .. } => *unhealthy = new_reason.or(unhealthy.take()),
            Lifecycle::Over { .. } => {}
        }
        if by_signal {
            self.absolve_undecided(now);
        }
    }

    /// A second signal: running jobs and processes get no grace any more.
    pub(crate) fn abort(&mut self, now: Time) {
        self.begin_drain(now, &DrainCause::Signal);
        match &mut self.lifecycle {
            Lifecycle::Draining { cancel_at, poll_until, aborted, .. } => {
                *cancel_at = Some(now);
                *poll_until = now;
                *aborted = true;
                self.stop_all_jobs(now);
            }
            Lifecycle::Closing { flush_until, .. } => {
                *flush_until = (*flush_until).min(now + self.policy.abort_flush_grace);
            }
            Lifecycle::Working | Lifecycle::Over { .. } => {}
        }
        for index in 0..self.processes.len() {
            self.kill(now, ProcessId(index), &KillCause::Shutdown);
        }
    }

    /// Moves the shutdown on.
    pub(crate) fn wind_down(&mut self, now: Time) {
        if let Lifecycle::Draining { poll_until, cancel_at, .. } = self.lifecycle {
            self.drain(now, poll_until, cancel_at);
        }
        // Not `else`: a drain that has just ended may have nothing left to wait for.
        if let Lifecycle::Closing { flush_until, .. } = self.lifecycle {
            self.exit_when_flushed(now, flush_until);
        }
    }

    /// Ends the drain once no poll is in flight and every job is decided. Jobs get no more time when theirs is over, or when no
    /// process will run them.
    fn drain(&mut self, now: Time, poll_until: Time, cancel_at: Option<Time>) {
        self.stop_waiting_processes();
        let out_of_time = cancel_at.is_some_and(|cancel_at| now >= cancel_at);
        if out_of_time || !self.processes.iter().any(|process| self.may_serve_again(&process.phase)) {
            self.stop_all_jobs(now);
        }
        if now >= poll_until {
            self.abort_poll();
        }
        if self.poll.in_flight && now >= poll_until + self.policy.poll_abort_timeout {
            self.report(Report::ShutdownOverrun { part: "poll" });
            self.poll.in_flight = false;
        }
        if !self.poll.in_flight && self.jobs.all_decided() {
            self.close(now);
        }
    }

    /// Exits once every process has exited and every result is delivered, or the time for that is over.
    fn exit_when_flushed(&mut self, now: Time, flush_until: Time) {
        if self.processes.iter().any(|process| process.phase.is_alive()) {
            return;
        }
        if !self.jobs.is_empty() {
            if now < flush_until {
                return;
            }
            self.report(Report::ShutdownOverrun { part: "outbox" });
        }
        let unhealthy = self.lifecycle.unhealthy_reason().map(str::to_owned);
        let code = u8::from(unhealthy.is_some());
        self.lifecycle = Lifecycle::Over { unhealthy };
        self.emit(Effect::Exit { code });
    }

    /// When the shutdown needs attention, apart from the limits of running jobs and living processes.
    pub(crate) fn shutdown_deadline(&self) -> Option<Time> {
        match self.lifecycle {
            Lifecycle::Working | Lifecycle::Over { .. } => None,
            Lifecycle::Draining { poll_until, cancel_at, cancelled, .. } => {
                let overrun = if self.poll.aborted { self.policy.poll_abort_timeout } else { Default::default() };
                let poll = self.poll.in_flight.then_some(poll_until + overrun);
                let cancel = cancel_at.filter(|_| !cancelled);
                poll.into_iter().chain(cancel).min()
            }
            Lifecycle::Closing { flush_until, .. } => {
                let all_exited = !self.processes.iter().any(|process| process.phase.is_alive());
                (all_exited && !self.jobs.is_empty()).then_some(flush_until)
            }
        }
    }

    /// Whether a process may be started now. During a drain only waiting jobs are a reason to start one.
    pub(crate) fn may_start(&self) -> bool {
        match &self.lifecycle {
            Lifecycle::Working => true,
            Lifecycle::Draining { unhealthy, cancelled, .. } => {
                unhealthy.is_none() && !cancelled && !self.waiting.is_empty()
            }
            Lifecycle::Closing { .. } | Lifecycle::Over { .. } => false,
        }
    }

    /// Whether a process that has exited may be started again, now or later.
    pub(crate) fn wants_processes(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Working | Lifecycle::Draining { cancelled: false, unhealthy: None, .. })
    }

    /// Whether jobs may still be run in a process, or be returned to the queue by its exit.
    fn may_serve_again(&self, phase: &Phase) -> bool {
        match phase {
            Phase::Spawning { .. } | Phase::Handshaking { .. } | Phase::Loading | Phase::Serving => true,
            Phase::Retiring { .. } | Phase::Killing { .. } => self.jobs.totals().in_slots > 0,
            Phase::Backoff { .. } => self.may_start(),
            Phase::Stopped | Phase::GaveUp => false,
        }
    }

    /// Processes that wait for a start which will not come are stopped.
    fn stop_waiting_processes(&mut self) {
        if self.may_start() {
            return;
        }
        for process in &mut self.processes {
            if matches!(process.phase, Phase::Backoff { .. }) {
                process.phase = Phase::Stopped;
            }
        }
    }

    /// The drain grace is over: waiting jobs are handed back, running ones are asked to stop.
    fn stop_all_jobs(&mut self, now: Time) {
        if let Lifecycle::Draining { cancelled, .. } = &mut self.lifecycle {
            *cancelled = true;
        }
        for id in self.waiting.clone() {
            self.finish(now, &id, Outcome::HandedBack, Extras::default());
        }
        let is_running = |job: &&Job| matches!(job.state, JobState::Assigned(_) | JobState::Running(_));
        let running: Vec<JobId> = self.jobs.iter().filter(is_running).map(|job| job.id.clone()).collect();
        for id in running {
            self.ask_to_stop(now, &id, StopReason::Drain);
        }
    }

    /// No job runs any more: processes are asked to exit, and results get the flush grace.
    fn close(&mut self, now: Time) {
        let Lifecycle::Draining { unhealthy, aborted, .. } = self.lifecycle.clone() else { return };
        let flush = if aborted { self.policy.abort_flush_grace } else { self.policy.flush_grace };
        self.lifecycle = Lifecycle::Closing { unhealthy, flush_until: now + flush };
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let until = now + self.policy.exit_timeout;
            let process = self.process(id);
            match process.phase {
                Phase::Loading | Phase::Serving => {
                    process.phase = Phase::Retiring { cause: KillCause::Shutdown, until };
                    self.emit(Effect::Send { process: id, message: ToHandler::Shutdown, payload: Bytes::new() });
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

/// Why the worker drains, as it is logged.
fn description(cause: &DrainCause) -> &str {
    match cause {
        DrainCause::Signal => "asked to stop",
        DrainCause::Refresh => "a fresh worker is wanted after this job",
        DrainCause::Unhealthy { reason, .. } => reason,
    }
}
