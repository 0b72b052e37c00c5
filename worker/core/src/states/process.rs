//! One handler process: its phases, each with its own limit.
//!
//! ```text
//! Backoff → Spawning → Handshaking → Loading → Serving → Retiring → Killing → (reaped) → Backoff
//!                                                                                     ↘ Stopped, GaveUp
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use runpod_handler_protocol::{ErrorKind, Manifest};

use super::slot::Slot;
use super::slots::Slots;
use super::wear::Wear;
use crate::boundary::{BatchingView, Exit, Incarnation, Policy, ProcessId, ProcessView, RecycleReason, Time};

/// Why a process is being killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// A job was asked to stop and did not.
    Overdue,
    /// It stopped answering pings.
    Unresponsive,
    /// Its device cannot be used until the process is replaced.
    DeviceLost,
    /// Jobs block all threads of an async handler.
    Blocked,
    /// Two jobs in a row ran out of memory.
    OutOfMemory,
    /// It violated the protocol.
    Protocol(String),
    /// It did not start in time, or must not be used.
    Start(String),
    /// It has reached a recycling limit.
    Recycled(RecycleReason),
    /// The worker is shutting down.
    Shutdown,
}

impl KillCause {
    /// Whether the kill counts as a crash of the handler.
    pub(crate) fn is_crash(&self) -> bool {
        matches!(self, Self::Unresponsive | Self::DeviceLost | Self::Blocked | Self::Protocol(_))
    }

    /// The reason shown in `/health` while no process serves. A lost device has the same name there as in results, logs and
    /// metrics.
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
            Self::Blocked => f.write_str("jobs block all threads of the async handler"),
            Self::OutOfMemory => f.write_str("two jobs in a row ran out of memory"),
            Self::Protocol(reason) => write!(f, "the handler process violated the protocol: {reason}"),
            Self::Start(reason) => f.write_str(reason),
            Self::Recycled(reason) => write!(f, "it is recycled ({})", reason.as_str()),
            Self::Shutdown => f.write_str("the worker is shutting down"),
        }
    }
}

/// Phase of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It waits for its next start.
    Backoff {
        /// When it is started.
        until: Time,
    },
    /// The operating system starts it.
    Spawning {
        /// When it is killed, unless it has started before.
        until: Time,
    },
    /// It runs and has not completed the handshake.
    Handshaking {
        /// When it is killed, unless the handshake is complete before.
        until: Time,
    },
    /// It loads its models; each slot has its own limit.
    Loading,
    /// It serves: jobs are sent to it.
    Serving,
    /// It gets no more jobs; those that it runs may finish.
    Retiring {
        /// Why it is killed afterwards.
        cause: KillCause,
        /// When it is killed at the latest.
        until: Time,
    },
    /// It was killed and is not reaped yet.
    Killing {
        /// Why it was killed.
        cause: KillCause,
        /// When it counts as exited although it was not reaped.
        until: Time,
    },
    /// It has exited and is not started again.
    Stopped,
    /// Its start has failed for good.
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

    /// Whether the operating system may still run it.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self, Self::Backoff { .. } | Self::Stopped | Self::GaveUp)
    }

    /// Whether the handshake is complete, so that messages can be exchanged.
    fn is_connected(&self) -> bool {
        matches!(self, Self::Loading | Self::Serving | Self::Retiring { .. })
    }
}

/// A handler process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub id: ProcessId,
    pub incarnation: Incarnation,
    pub phase: Phase,
    pub slots: Slots,
    /// Process id of the operating system.
    pub pid: Option<u32>,
    /// The device that holds its models.
    pub device: Option<String>,
    /// The handler's manifest.
    pub manifest: Option<Arc<Manifest>>,
    /// The exit of the previous incarnation.
    pub last_exit: Option<Exit>,
    /// Why a model could not be loaded, if it reported that.
    pub load_error: Option<String>,
    /// The models that load again after a panic, and when each of them counts as stalled. All of their slots may have jobs.
    reloads: BTreeMap<u32, Time>,
    /// Crashes since the last completed job.
    pub crashes_in_a_row: u32,
    /// Starts in a row after which it did not serve.
    pub failed_starts: u32,
    /// Starting it again cannot succeed.
    pub start_cannot_succeed: bool,
    /// This incarnation has served.
    pub served: bool,
    /// It has passed its fitness checks and has not crashed since.
    pub fit: bool,
    /// The time of the process, divided at each moment among the jobs that run then, as the share of one of them. What a job has
    /// received is how much this has grown while it ran.
    pub share: Duration,
    /// What this incarnation has used, for recycling.
    pub wear: Wear,
    /// What this incarnation has reported about batches and steps.
    pub batching: BatchingView,
    /// When its last job ended, or its device last worked.
    pub idle_since: Time,
    /// Number of its last jobs that ran out of memory, without another outcome between them.
    pub ooms_in_a_row: u32,
    /// When the current part of its start began.
    pub start_phase_since: Time,
    /// When the next ping is due.
    ping_at: Time,
    /// When it last answered a ping.
    pong_at: Time,
    ping_seq: u64,
}

impl Process {
    /// A process whose first start is due.
    pub(crate) fn new(id: ProcessId, slots: u32) -> Self {
        Self {
            id,
            incarnation: Incarnation::default(),
            phase: Phase::Backoff { until: Time::default() },
            slots: Slots::new(slots, &Slot::Absent),
            pid: None,
            device: None,
            manifest: None,
            last_exit: None,
            load_error: None,
            reloads: BTreeMap::new(),
            crashes_in_a_row: 0,
            failed_starts: 0,
            start_cannot_succeed: false,
            served: false,
            fit: false,
            share: Duration::ZERO,
            wear: Wear::default(),
            batching: BatchingView::default(),
            idle_since: Time::default(),
            ooms_in_a_row: 0,
            start_phase_since: Time::default(),
            ping_at: Time::default(),
            pong_at: Time::default(),
            ping_seq: 0,
        }
    }

    /// Begins a new incarnation.
    pub(crate) fn start(&mut self, now: Time, policy: &Policy) {
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        self.phase = Phase::Spawning { until: now + policy.handshake_timeout };
        self.device = None;
        self.load_error = None;
        self.served = false;
        self.batching = BatchingView::default();
        self.ooms_in_a_row = 0;
        self.start_phase_since = now;
    }

    /// The handshake is complete; its slots load their models.
    pub(crate) fn begin_loading(&mut self, manifest: Arc<Manifest>, slots: u32, now: Time, policy: &Policy) {
        self.manifest = Some(manifest);
        self.phase = Phase::Loading;
        self.slots = Slots::new(slots, &Slot::Loading { stalls_at: now + policy.load_stall_timeout });
        self.pong_at = now;
        self.ping_at = now + policy.ping_interval;
    }

    /// A model says that it loads. One that runs jobs together says so also when it loads again, after a panic: its free slots
    /// get no job meanwhile, and the jobs in the others wait for it. Returns whether it is one that may load.
    pub(crate) fn load_goes_on(&mut self, model: u32, models: u32, stalls_at: Time) -> bool {
        let again = matches!(self.phase, Phase::Serving | Phase::Retiring { .. }) && self.runs_several_jobs();
        let loading = Slot::Loading { stalls_at };
        if again && model < models {
            self.reloads.insert(model, stalls_at);
            self.slots.load_again(model, models, &loading);
            true
        } else {
            self.slots.set_loading(model, models, &loading)
        }
    }

    /// A model is loaded. Returns whether it was loading.
    pub(crate) fn model_loaded(&mut self, model: u32, models: u32) -> bool {
        let again = self.reloads.remove(&model).is_some();
        self.slots.set_loading(model, models, &Slot::Ready) || again
    }

    /// The state of a slot whose job has ended: it waits for the next one, unless its model loads again.
    pub(crate) fn freed_slot(&self, slot: u32, models: u32) -> Slot {
        match self.reloads.get(&(slot % models.max(1))) {
            Some(&stalls_at) => Slot::Loading { stalls_at },
            None => Slot::Ready,
        }
    }

    /// Every slot has its model.
    pub(crate) fn begin_serving(&mut self, now: Time) {
        self.phase = Phase::Serving;
        self.served = true;
        self.failed_starts = 0;
        self.wear = Wear { since: now, ..Wear::default() };
        self.idle_since = now;
    }

    /// The incarnation has exited: its slots are absent.
    pub(crate) fn clear(&mut self) {
        self.pid = None;
        self.reloads.clear();
        self.wear.device = None;
        self.slots.fill(&Slot::Absent);
    }

    /// Pause before the next start: none after a first crash, then doubled with every failure in a row.
    pub(crate) fn restart_delay(&self, policy: &Policy) -> Duration {
        match (self.failed_starts * 2).max(self.crashes_in_a_row) {
            0 | 1 => Duration::ZERO,
            failures => {
                let doubled = 2u32.saturating_pow(failures - 2);
                policy.restart_delay.saturating_mul(doubled).min(policy.restart_delay_max)
            }
        }
    }

    /// It has answered a ping.
    pub(crate) fn ponged(&mut self, now: Time) {
        self.pong_at = now;
    }

    /// The sequence number of the next ping, if one is due.
    pub(crate) fn ping_due(&mut self, now: Time, policy: &Policy) -> Option<u64> {
        if !self.phase.is_connected() || now < self.ping_at {
            return None;
        }
        self.ping_at = now + policy.ping_interval;
        self.ping_seq += 1;
        Some(self.ping_seq)
    }

    /// Whether it has not answered pings for too long.
    pub(crate) fn is_unresponsive(&self, now: Time, policy: &Policy) -> bool {
        self.phase.is_connected() && now >= self.pong_at + policy.pong_timeout
    }

    /// Whether a model has been loading without progress for too long.
    pub(crate) fn is_stalled(&self, now: Time) -> bool {
        self.phase.is_connected() && self.stalls_at().is_some_and(|stalls_at| stalls_at <= now)
    }

    /// When a model that makes no progress counts as stalled.
    fn stalls_at(&self) -> Option<Time> {
        self.slots.stalls_at().into_iter().chain(self.reloads.values().copied()).min()
    }

    /// Whether a probe of its device was not answered in time.
    pub(crate) fn probe_timed_out(&self, now: Time) -> bool {
        self.phase.is_connected() && self.slots.probe_until().is_some_and(|until| until <= now)
    }

    /// Whether the deadlines of its jobs decide when they end. In all other phases the limit of the phase does.
    pub(crate) fn job_deadlines_apply(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Retiring { cause: KillCause::Recycled(_), .. })
    }

    /// The slot to which the next job can be sent.
    pub(crate) fn ready_slot(&self) -> Option<u32> {
        self.slots.first_ready().filter(|_| self.phase == Phase::Serving)
    }

    /// Whether a model of it runs several jobs in one call of user code, in batches or step by step.
    pub(crate) fn runs_several_jobs(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.max_batch_items.is_some())
    }

    /// How many jobs can be sent to it.
    pub(crate) fn ready_slots(&self) -> usize {
        if self.phase == Phase::Serving { self.slots.ready() } else { 0 }
    }

    /// Whether none of its slots runs a job.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.busy() == 0
    }

    /// When this process needs attention, if nothing else happens.
    pub(crate) fn next_deadline(&self, policy: &Policy) -> Option<Time> {
        let phase = match &self.phase {
            Phase::Backoff { until }
            | Phase::Spawning { until }
            | Phase::Handshaking { until }
            | Phase::Retiring { until, .. }
            | Phase::Killing { until, .. } => Some(*until),
            Phase::Loading | Phase::Serving | Phase::Stopped | Phase::GaveUp => None,
        };
        let slots_and_pings = self.phase.is_connected().then(|| {
            let slots = self.stalls_at().into_iter().chain(self.slots.probe_until());
            slots.chain([self.ping_at, self.pong_at + policy.pong_timeout]).min()
        });
        phase.into_iter().chain(slots_and_pings.flatten()).min()
    }

    /// Its view for the snapshot.
    pub(crate) fn view(&self, batching: Option<BatchingView>) -> ProcessView {
        ProcessView {
            id: self.id,
            incarnation: self.incarnation,
            phase: self.phase.as_str(),
            pid: self.pid,
            device: self.device.clone(),
            slots: self.slots.usable(),
            busy: self.slots.busy(),
            device_memory: self.wear.device,
            batching,
            last_exit: self.last_exit.clone(),
        }
    }
}
