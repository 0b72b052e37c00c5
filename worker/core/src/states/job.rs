//! One job, from the moment it is taken until the queue has accepted its result.
//!
//! | from | event | to |
//! | --- | --- | --- |
//! | – | taken | `Queued` |
//! | `Queued` | a slot is ready | `Assigned` |
//! | `Queued` | deadline, stop, drain limit | ended, never run |
//! | `Assigned` | `Started` | `Running` |
//! | `Assigned`, `Running` | deadline, stop, drain limit | `Stopping` |
//! | `Assigned`, `Running`, `Stopping` | `Done`, `Failed` | `Delivering` |
//! | `Assigned`, `Running`, `Stopping` | its process exits | `Queued`, `Undecided` or `Delivering` |
//! | `Undecided` | a shutdown begins | `Queued` |
//! | `Undecided` | its time is over | `Delivering` |
//! | `Delivering` | accepted, or refused for good | closed: removed from the table |
//!
//! A job that was cancelled or handed back has nothing to deliver and is closed at once.

use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorReport, StopReason};

use crate::boundary::{JobId, ProcessId, SlotRef, TakenJob, Time};

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// It waits for a slot.
    Queued,
    /// It was sent to a slot, which has not begun with it.
    Assigned(SlotRef),
    /// User code runs it. The handler process announces this before it calls user code.
    Running(SlotRef),
    /// It was asked to stop; user code may still run it.
    Stopping {
        slot: SlotRef,
        /// Why it was asked.
        why: StopReason,
        /// When its process is killed.
        kill_at: Time,
    },
    /// Its process has exited by itself. If the worker is asked to stop within a moment, that was the reason, and the job is
    /// not blamed.
    Undecided {
        /// When the job fails.
        until: Time,
    },
    /// Its result is decided and being delivered.
    Delivering,
}

/// A job that is not closed.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The queue's id of it.
    pub id: JobId,
    /// The job object as received; empty once its result is decided.
    pub body: Bytes,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Its tenant, for metrics.
    pub tenant: Option<String>,
    pub state: JobState,
    /// Runs begun so far on this worker.
    pub attempt: u32,
    /// When it was taken.
    pub taken_at: Time,
    /// When its last run began.
    pub started_at: Option<Time>,
    /// When its result was decided.
    pub decided_at: Option<Time>,
    /// When it was first asked to stop.
    pub stopping_since: Option<Time>,
    /// Its share of its process's time in its last run, once it has left its slot.
    pub gpu_time: Duration,
    /// The share that every job in its process had received when its last run began.
    pub share_at_start: Duration,
    /// Its execution timeout, counted from `taken_at`.
    pub timeout: Duration,
    /// When that timeout is over.
    pub deadline: Time,
    /// How often a process exited while it may have been the cause.
    pub crashes: u32,
    /// How often it lost its process without being suspected: before it was begun, or by a signal from outside.
    pub lost_runs: u32,
    /// The error with which an undecided job fails.
    pub exit_error: Option<ErrorReport>,
    /// The model that runs it together with other jobs, once its process has said so.
    pub model: Option<u32>,
    /// It may have crashed its process, so it runs again without other jobs beside it.
    pub runs_alone: bool,
    /// At least one chunk was posted, so a second run would repeat output.
    pub streamed: bool,
    /// Its result asks the queue to replace this worker.
    pub stop_pod: bool,
    /// Its result is an error.
    pub failed: bool,
    /// The queue has handed it out again while its last run could not answer that any more. It is taken in once this run
    /// is closed.
    pub taken_again: Option<Box<TakenJob>>,
}

/// The times of a job whose result is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeliveredJob {
    /// How long its last run took. Zero if it was never run.
    pub run_time: Duration,
    /// How long its result waited and was posted.
    pub delivery_time: Duration,
}

impl DeliveredJob {
    /// The queue has taken the result of this job now.
    pub(crate) fn of(job: &Job, now: Time) -> Self {
        let decided = job.decided_at.unwrap_or(now);
        let run_time = job.started_at.map(|started| decided.since(started)).unwrap_or_default();
        Self { run_time, delivery_time: now.since(decided) }
    }
}

impl Job {
    /// A job that was just taken. It waits for a slot.
    pub(crate) fn new(taken: &TakenJob, now: Time, default_timeout: Duration) -> Self {
        let timeout = taken.timeout.unwrap_or(default_timeout);
        Self {
            id: taken.id.clone(),
            body: taken.body.clone().unwrap_or_default(),
            traceparent: taken.traceparent.clone(),
            tenant: taken.tenant.clone(),
            state: JobState::Queued,
            attempt: 0,
            taken_at: now,
            started_at: None,
            decided_at: None,
            stopping_since: None,
            gpu_time: Duration::ZERO,
            share_at_start: Duration::ZERO,
            timeout,
            deadline: now + timeout,
            crashes: 0,
            lost_runs: 0,
            exit_error: None,
            model: None,
            runs_alone: false,
            streamed: false,
            stop_pod: false,
            failed: false,
            taken_again: None,
        }
    }

    /// A job whose result exists already and is being delivered.
    pub(crate) fn delivering(taken: &TakenJob, now: Time, default_timeout: Duration) -> Self {
        Self { state: JobState::Delivering, body: Bytes::new(), ..Self::new(taken, now, default_timeout) }
    }

    /// The slot in which it is, if it is in one.
    pub(crate) fn slot(&self) -> Option<SlotRef> {
        match self.state {
            JobState::Assigned(slot) | JobState::Running(slot) | JobState::Stopping { slot, .. } => Some(slot),
            JobState::Queued | JobState::Undecided { .. } | JobState::Delivering => None,
        }
    }

    /// Whether it is in a slot of this process.
    pub(crate) fn runs_in(&self, process: ProcessId) -> bool {
        self.slot().is_some_and(|slot| slot.process == process)
    }

    /// Whether it may be the reason why its process exited. A job that was not begun is suspected only after several such
    /// exits, because its mere arrival may do the harm.
    pub(crate) fn is_suspect(&self, lost_run_limit: u32) -> bool {
        !matches!(self.state, JobState::Assigned(_)) || self.lost_runs >= lost_run_limit
    }

    /// Whether the queue's next request for this job cannot be answered by the run that is under way: nothing is posted for
    /// it, or the error that is being delivered may be what the new request follows.
    pub(crate) fn must_run_again(&self) -> bool {
        match self.state {
            JobState::Stopping { why, .. } => why == StopReason::Cancelled,
            JobState::Delivering => self.failed,
            JobState::Queued | JobState::Assigned(_) | JobState::Running(_) | JobState::Undecided { .. } => false,
        }
    }

    /// Whether it was asked to stop and its grace is over.
    pub(crate) fn is_overdue(&self, now: Time) -> bool {
        matches!(self.state, JobState::Stopping { kill_at, .. } if kill_at <= now)
    }

    /// When this job needs attention, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        match self.state {
            JobState::Queued | JobState::Assigned(_) | JobState::Running(_) => Some(self.deadline),
            JobState::Stopping { kill_at, .. } => Some(kill_at),
            JobState::Undecided { until } => Some(until),
            JobState::Delivering => None,
        }
    }
}
