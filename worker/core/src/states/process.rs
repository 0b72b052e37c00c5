//! One handler process: its phases, each with a limit of its own.
//!
//! ```text
//! Backoff → Spawning → Handshaking → Loading → Serving → Retiring → Killing → (reaped) → Backoff
//!                                                                                     ↘ Stopped, GaveUp
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::slot::Slot;
use super::wear::Wear;
use crate::boundary::{Epoch, Exit, Policy, ProcessId, ProcessView, RecycleReason, Time};
use runpod_handler_protocol::{ErrorKind, Manifest};

/// Why a process is being killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// A job was asked to stop and did not.
    Overdue,
    /// It stopped answering.
    Unresponsive,
    /// Its device is unusable until the process is replaced.
    DeviceLost,
    /// It ran out of memory twice in a row.
    OutOfMemory,
    /// It broke the protocol.
    Protocol(String),
    /// It did not come up in time.
    Start(String),
    /// It has done its time.
    Recycled(RecycleReason),
    /// The worker is shutting down.
    Shutdown,
}

impl KillCause {
    /// Whether it counts towards the crash limit.
    pub(crate) fn is_crash(&self) -> bool {
        matches!(self, Self::Unresponsive | Self::DeviceLost | Self::Protocol(_))
    }

    /// Why nothing serves meanwhile. A fatal error of the device is named as in results, logs and metrics.
    pub(crate) fn trouble(&self) -> String {
        match self {
            Self::DeviceLost => format!("{}: {self}", ErrorKind::DeviceLost),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for KillCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overdue => f.write_str("a job was asked to stop and did not"),
            Self::Unresponsive => f.write_str("the handler process stopped answering"),
            Self::DeviceLost => f.write_str("the device cannot be used by this process any more"),
            Self::OutOfMemory => f.write_str("two jobs in a row ran out of memory"),
            Self::Protocol(reason) => write!(f, "the handler process broke the protocol: {reason}"),
            Self::Start(reason) => f.write_str(reason),
            Self::Recycled(reason) => write!(f, "it is recycled ({})", reason.as_str()),
            Self::Shutdown => f.write_str("the worker is shutting down"),
        }
    }
}

/// Where a process is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting to be started.
    Backoff {
        /// When.
        until: Time,
    },
    /// Asked of the operating system.
    Spawning {
        /// Limit.
        until: Time,
    },
    /// Started, has not introduced itself.
    Handshaking {
        /// Limit.
        until: Time,
    },
    /// Building its models; each slot has its limit.
    Loading,
    /// Taking jobs.
    Serving,
    /// Taking no more jobs; those it has may finish.
    Retiring {
        /// Why.
        cause: KillCause,
        /// Limit, after which it is killed.
        until: Time,
    },
    /// Killed, not yet reaped.
    Killing {
        /// Why.
        cause: KillCause,
        /// Limit, after which it counts as gone all the same.
        until: Time,
    },
    /// Ended and not wanted any more.
    Stopped,
    /// Could not be brought up.
    GaveUp,
}

impl Phase {
    /// The word used in `/health`.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Backoff { .. } => "backoff",
            Self::Spawning { .. } => "spawning",
            Self::Handshaking { .. } => "handshaking",
            Self::Loading => "loading",
            Self::Serving => "serving",
            Self::Retiring { .. } => "retiring",
            Self::Killing { .. } => "killing",
            Self::Stopped => "stopped",
            Self::GaveUp => "gave_up",
        }
    }

    /// Whether the operating system may still have it.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self, Self::Backoff { .. } | Self::Stopped | Self::GaveUp)
    }

    /// Whether it has introduced itself and can be spoken to.
    fn converses(&self) -> bool {
        matches!(self, Self::Loading | Self::Serving | Self::Retiring { .. })
    }
}

/// A handler process and what it is known for.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Position.
    pub id: ProcessId,
    /// Incarnation.
    pub epoch: Epoch,
    /// Phase.
    pub phase: Phase,
    /// Slots.
    pub slots: Vec<Slot>,
    /// Operating system's id.
    pub pid: Option<u32>,
    /// Where its models live.
    pub device: Option<String>,
    /// What it said about itself.
    pub manifest: Option<Arc<Manifest>>,
    /// How the last incarnation ended.
    pub last_exit: Option<Exit>,
    /// What it said when a model could not be built.
    pub load_error: Option<String>,
    /// Crashes in a row; a completed job clears them.
    pub strikes: u32,
    /// Starts in a row that did not end in serving.
    pub failed_starts: u32,
    /// Starting it again cannot help.
    pub hopeless: bool,
    /// This incarnation has come as far as serving.
    pub served: bool,
    /// It has passed its checks and has not crashed since.
    pub fit: bool,
    /// What this incarnation has used up.
    pub wear: Wear,
    /// When its last job ended, or its device was last seen working.
    pub idle_since: Time,
    /// Out-of-memory failures in a row.
    pub ooms: u32,
    /// When the current part of its start began.
    pub start_phase_since: Time,
    /// When to ping next.
    ping_at: Time,
    /// When it last answered.
    heard_at: Time,
    ping_seq: u64,
}

impl Process {
    /// A process that is to be started at once.
    pub(crate) fn new(id: ProcessId, slots: u32) -> Self {
        Self {
            id,
            epoch: Epoch::default(),
            phase: Phase::Backoff { until: Time::default() },
            slots: vec![Slot::Absent; slots as usize],
            pid: None,
            device: None,
            manifest: None,
            last_exit: None,
            load_error: None,
            strikes: 0,
            failed_starts: 0,
            hopeless: false,
            served: false,
            fit: false,
            wear: Wear::default(),
            idle_since: Time::default(),
            ooms: 0,
            start_phase_since: Time::default(),
            ping_at: Time::default(),
            heard_at: Time::default(),
            ping_seq: 0,
        }
    }

    /// Begins a new incarnation.
    pub(crate) fn start(&mut self, now: Time, policy: &Policy) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.phase = Phase::Spawning { until: now + policy.handshake_timeout };
        self.device = None;
        self.load_error = None;
        self.served = false;
        self.ooms = 0;
        self.start_phase_since = now;
    }

    /// The handshake is done; its slots load.
    pub(crate) fn begin_loading(&mut self, manifest: Arc<Manifest>, now: Time, policy: &Policy) {
        self.manifest = Some(manifest);
        self.phase = Phase::Loading;
        self.slots.fill(Slot::Loading { stalls_at: now + policy.load_stall_timeout });
        self.heard_at = now;
        self.ping_at = now + policy.ping_interval;
    }

    /// Every slot has its model.
    pub(crate) fn begin_serving(&mut self, now: Time) {
        self.phase = Phase::Serving;
        self.served = true;
        self.failed_starts = 0;
        self.wear = Wear { since: now, ..Wear::default() };
        self.idle_since = now;
    }

    /// Nothing is left of this incarnation.
    pub(crate) fn clear(&mut self) {
        self.pid = None;
        self.wear.device = None;
        self.slots.fill(Slot::Absent);
    }

    /// Pause before the next start: none after a first crash, then doubling with every failure in a row.
    pub(crate) fn restart_delay(&self, policy: &Policy) -> Duration {
        match (self.failed_starts * 2).max(self.strikes) {
            0 | 1 => Duration::ZERO,
            failures => {
                let doubled = 2u32.saturating_pow(failures - 2);
                policy.restart_delay.saturating_mul(doubled).min(policy.restart_delay_max)
            }
        }
    }

    /// Notes a pong.
    pub(crate) fn heard(&mut self, now: Time) {
        self.heard_at = now;
    }

    /// The sequence number of a ping, if one is due.
    pub(crate) fn ping_due(&mut self, now: Time, policy: &Policy) -> Option<u64> {
        if !self.phase.converses() || now < self.ping_at {
            return None;
        }
        self.ping_at = now + policy.ping_interval;
        self.ping_seq += 1;
        Some(self.ping_seq)
    }

    /// Whether it has been silent for too long.
    pub(crate) fn is_frozen(&self, now: Time, policy: &Policy) -> bool {
        self.phase.converses() && now >= self.heard_at + policy.pong_timeout
    }

    /// Whether a slot has been loading without progress for too long.
    pub(crate) fn is_stalled(&self, now: Time) -> bool {
        self.phase.converses()
            && self.slots.iter().any(|slot| matches!(slot, Slot::Loading { stalls_at } if *stalls_at <= now))
    }

    /// Whether a probe of its device was not answered in time.
    pub(crate) fn is_probed_in_vain(&self, now: Time) -> bool {
        self.phase.converses() && self.slots.iter().any(|slot| matches!(slot, Slot::Probing { until } if *until <= now))
    }

    /// Whether it only waits for its jobs to end; their deadlines still hold.
    pub(crate) fn is_patient(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Retiring { cause: KillCause::Recycled(_), .. })
    }

    /// Whether all slots have a model.
    pub(crate) fn is_loaded(&self) -> bool {
        self.slots.iter().all(|slot| !matches!(slot, Slot::Loading { .. } | Slot::Absent))
    }

    /// Whether at least one slot has a model.
    pub(crate) fn has_model(&self) -> bool {
        self.slots.iter().any(|slot| !matches!(slot, Slot::Loading { .. } | Slot::Absent))
    }

    /// Slots waiting for a job.
    pub(crate) fn ready_slots(&self) -> impl Iterator<Item = u32> + '_ {
        let serving = self.phase == Phase::Serving;
        self.slots.iter().zip(0..).filter(move |(slot, _)| serving && **slot == Slot::Ready).map(|(_, index)| index)
    }

    /// Whether none of its slots runs a job.
    pub(crate) fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.job().is_none())
    }

    /// When this process needs attention, if nothing else happens.
    pub(crate) fn next_deadline(&self, policy: &Policy) -> Option<Time> {
        let own = match &self.phase {
            Phase::Backoff { until }
            | Phase::Spawning { until }
            | Phase::Handshaking { until }
            | Phase::Retiring { until, .. }
            | Phase::Killing { until, .. } => Some(*until),
            Phase::Loading | Phase::Serving | Phase::Stopped | Phase::GaveUp => None,
        };
        let talk = self.phase.converses().then(|| {
            let stall = self.slots.iter().filter_map(|slot| match slot {
                Slot::Loading { stalls_at } => Some(*stalls_at),
                Slot::Probing { until } => Some(*until),
                _ => None,
            });
            stall.chain([self.ping_at, self.heard_at + policy.pong_timeout]).min()
        });
        own.into_iter().chain(talk.flatten()).min()
    }

    /// What `/health` shows of it.
    pub(crate) fn view(&self) -> ProcessView {
        ProcessView {
            id: self.id,
            epoch: self.epoch,
            phase: self.phase.as_str(),
            pid: self.pid,
            device: self.device.clone(),
            busy: self.slots.iter().filter(|slot| slot.job().is_some()).count(),
            device_memory: self.wear.device,
            last_exit: self.last_exit.clone(),
        }
    }
}
