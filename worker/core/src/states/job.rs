//! One job, from the queue to the platform's acceptance of its result.
//!
//! | from | event | to |
//! | --- | --- | --- |
//! | – | taken | `Queued` |
//! | `Queued` | a slot is ready | `Assigned` |
//! | `Queued` | deadline, stop | ended, never run |
//! | `Assigned` | `Started` | `Running` |
//! | `Assigned`, `Running` | deadline, stop, drain limit | `Stopping` |
//! | `Assigned`, `Running`, `Stopping` | `Done`, `Failed` | `Delivering` |
//! | `Assigned`, `Running`, `Stopping` | process gone | `Queued` or `Delivering` |
//! | `Delivering` | accepted, or refused for good | closed: out of the table |
//!
//! A job that was cancelled or handed back has nothing to deliver and is closed at once.

use std::time::Duration;

use crate::boundary::{JobId, ProcessId, SlotRef, TakenJob, Time};
use bytes::Bytes;
use runpod_handler_protocol::CancelReason;

/// A process may die that often between the arrival of a job and its begin before the job is taken for the reason.
const MAX_LOST_STARTS: u32 = 2;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// Held, waiting for a slot.
    Queued,
    /// Sent to a slot, which has not begun with it.
    Assigned(SlotRef),
    /// User code has it: the handler says so before it lets it in.
    Running(SlotRef),
    /// Asked to stop; user code still has it.
    Stopping {
        /// Its slot.
        place: SlotRef,
        /// Who asked.
        why: CancelReason,
        /// When its process is killed.
        kill_at: Time,
    },
    /// Its outcome is decided and on its way to the platform.
    Delivering,
}

/// A job that is not closed.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Id.
    pub id: JobId,
    /// The job object as received.
    pub body: Bytes,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// On whose behalf it runs.
    pub tenant: Option<String>,
    /// Where it is.
    pub state: JobState,
    /// Runs begun so far on this worker.
    pub attempt: u32,
    /// When it came in.
    pub taken_at: Time,
    /// When its last run began.
    pub started_at: Option<Time>,
    /// When it was first asked to stop.
    pub stopping_since: Option<Time>,
    /// Its share of its process's time in its last run.
    pub gpu_time: Duration,
    /// When it must be over, and how long that was from `taken_at`.
    pub deadline: Time,
    /// Its execution timeout.
    pub timeout: Duration,
    /// How often a process died under it.
    pub crashes: u32,
    /// How often a process died that had been sent it and had not begun.
    pub lost_starts: u32,
    /// It may have killed its process, so it runs again with nobody beside it.
    pub alone: bool,
    /// At least one chunk has gone out, so that a second run would repeat output.
    pub streamed: bool,
    /// Its result tells the queue that this worker is to be replaced.
    pub stop_pod: bool,
}

impl Job {
    /// A job that has just come in.
    pub(crate) fn new(taken: &TakenJob, body: Bytes, now: Time, default_timeout: Duration) -> Self {
        let timeout = taken.timeout.unwrap_or(default_timeout);
        Self {
            id: taken.id.clone(),
            body,
            traceparent: taken.traceparent.clone(),
            tenant: taken.tenant.clone(),
            state: JobState::Queued,
            attempt: 0,
            taken_at: now,
            started_at: None,
            stopping_since: None,
            gpu_time: Duration::ZERO,
            deadline: now + timeout,
            timeout,
            crashes: 0,
            lost_starts: 0,
            alone: false,
            streamed: false,
            stop_pod: false,
        }
    }

    /// The slot that has it, if one does.
    pub(crate) fn place(&self) -> Option<SlotRef> {
        match self.state {
            JobState::Assigned(place) | JobState::Running(place) | JobState::Stopping { place, .. } => Some(place),
            JobState::Queued | JobState::Delivering => None,
        }
    }

    /// Whether a slot of this process has it.
    pub(crate) fn runs_in(&self, process: ProcessId) -> bool {
        self.place().is_some_and(|place| place.process == process)
    }

    /// Whether it may be why its process died. One that was not begun is not, unless that has become too much of a chance:
    /// its mere arrival may do harm.
    pub(crate) fn is_suspect(&self) -> bool {
        !matches!(self.state, JobState::Assigned(_)) || self.lost_starts >= MAX_LOST_STARTS
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
            JobState::Delivering => None,
        }
    }
}
