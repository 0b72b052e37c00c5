//! What handler processes say, and what follows from it. Messages carry job and attempt; those for a run that is over
//! are dropped, so that one job's output can never reach another.

use std::sync::Arc;
use std::time::Duration;

use crate::boundary::{Effect, JobId, OutboxItem, ProcessId, Report, StartPhase, Time};
use crate::ending::{Extras, Outcome};
use crate::startup::first_line;
use crate::states::{Job, JobState, KillCause, Phase, Slot};
use crate::worker::Worker;
use bytes::Bytes;
use runpod_handler_protocol::{
    CancelReason, ErrorKind, ErrorReport, Manifest, PROTOCOL_VERSION, ToHandler, ToSupervisor,
};

/// How far the clocks of worker and handler may be apart about a deadline.
const DEADLINE_SLACK: Duration = Duration::from_millis(500);

impl Worker {
    pub(crate) fn spawned(&mut self, now: Time, id: ProcessId, pid: u32) {
        let until = now + self.policy.handshake_timeout;
        let process = self.process(id);
        process.pid = Some(pid);
        if !matches!(process.phase, Phase::Spawning { .. }) {
            return;
        }
        process.phase = Phase::Handshaking { until };
        self.start_phase_over(now, id, StartPhase::Spawn);
        let message = ToHandler::Hello {
            protocol: PROTOCOL_VERSION,
            worker_version: env!("CARGO_PKG_VERSION").to_owned(),
            processes: u32::try_from(self.policy.processes).unwrap_or(u32::MAX),
        };
        self.emit(Effect::Send { process: id, message, payload: Bytes::new() });
    }

    pub(crate) fn message(&mut self, now: Time, id: ProcessId, message: ToSupervisor, payload: Bytes) {
        match message {
            ToSupervisor::Hello { protocol, sdk_version } => self.greeted(now, id, protocol, &sdk_version, &payload),
            ToSupervisor::Checked => self.checked(now, id, &payload),
            ToSupervisor::Loading { slot, stage, done, total } => self.loading(now, id, slot, stage, done, total),
            ToSupervisor::Loaded { slot, device, millis, warm_up_millis } => {
                self.loaded(
                    now,
                    id,
                    slot,
                    device,
                    Duration::from_millis(millis),
                    Duration::from_millis(warm_up_millis),
                );
            }
            ToSupervisor::LoadFailed { slot } => self.load_failed(now, id, slot, &payload),
            ToSupervisor::Probed { slot, ok } => self.probed(now, id, slot, ok),
            ToSupervisor::Pong { .. } => self.process(id).heard(now),
            ToSupervisor::Started { job, attempt } => {
                if let Some(job) = self.current(id, &job, attempt)
                    && let Some(held) = self.jobs.get_mut(&job)
                    && let JobState::Assigned(place) = held.state
                {
                    held.state = JobState::Running(place);
                }
            }
            ToSupervisor::Chunk { job, attempt, seq } => self.chunk(id, &job, attempt, seq, payload),
            ToSupervisor::Progress { job, attempt } => {
                if let Some(job) = self.current(id, &job, attempt).filter(|job| !self.is_unwanted(job)) {
                    self.emit(Effect::Deliver { job, item: OutboxItem::Progress(payload) });
                }
            }
            ToSupervisor::Done { job, attempt, refresh, records } => {
                if let Some(job) = self.current(id, &job, attempt) {
                    self.done(now, id, &job, payload, Extras { refresh, records });
                }
            }
            ToSupervisor::Failed { job, attempt, refresh, reloading } => {
                if let Some(job) = self.current(id, &job, attempt) {
                    self.failed(now, id, &job, &payload, refresh, reloading);
                }
            }
        }
    }

    fn greeted(&mut self, now: Time, id: ProcessId, protocol: u32, sdk_version: &str, payload: &[u8]) {
        if !matches!(self.process(id).phase, Phase::Handshaking { .. }) {
            self.broke_protocol(now, id, "a second hello".to_owned());
            return;
        }
        if protocol != PROTOCOL_VERSION {
            let reason = format!(
                "the handler speaks protocol {protocol} (SDK {sdk_version}), this worker speaks {PROTOCOL_VERSION}: \
                 build the handler against runpod-handler-sdk {}",
                env!("CARGO_PKG_VERSION")
            );
            self.refuse(now, id, reason);
            return;
        }
        let manifest: Arc<Manifest> = match serde_json::from_slice(payload) {
            Ok(manifest) => Arc::new(manifest),
            Err(error) => {
                self.refuse(now, id, format!("the handler's manifest cannot be read: {error}"));
                return;
            }
        };
        self.manifest = Some(Arc::clone(&manifest));
        self.note_sdk(sdk_version);
        self.start_phase_over(now, id, StartPhase::Handshake);
        let message = ToHandler::Load {
            worker_id: self.policy.worker_id.clone(),
            slots: self.policy.slots,
            device: self.policy.device.clone(),
            chunk_window: self.policy.chunk_window,
        };
        let policy = &self.policy;
        self.processes[id.0].begin_loading(manifest, now, policy);
        self.order_checks(id);
        self.emit(Effect::Send { process: id, message, payload: Bytes::new() });
    }

    fn loading(&mut self, now: Time, id: ProcessId, slot: u32, stage: String, done: u64, total: u64) {
        let stalls_at = now + self.policy.load_stall_timeout;
        if let Some(slot @ Slot::Loading { .. }) = self.process(id).slots.get_mut(slot as usize) {
            *slot = Slot::Loading { stalls_at };
            self.report(Report::Loading { process: id, stage, done, total });
        }
    }

    fn loaded(&mut self, now: Time, id: ProcessId, slot: u32, device: String, load_time: Duration, warm_up: Duration) {
        let process = self.process(id);
        let Some(state @ Slot::Loading { .. }) = process.slots.get_mut(slot as usize) else { return };
        *state = Slot::Ready;
        process.device = Some(device.clone());
        if process.phase == Phase::Loading && process.is_loaded() {
            self.begin_serving(now, id, warm_up);
        }
        self.report(Report::SlotReady { process: id, slot, device, load_time });
    }

    /// The process is about to exit; its reason is kept until it has.
    fn load_failed(&mut self, now: Time, id: ProcessId, slot: u32, payload: &[u8]) {
        let error = read_error(payload);
        let stalls_at = now + self.policy.exit_timeout;
        let process = self.process(id);
        let Some(state @ Slot::Loading { .. }) = process.slots.get_mut(slot as usize) else {
            self.broke_protocol(now, id, "a load failure of a slot that is not loading".to_owned());
            return;
        };
        *state = Slot::Loading { stalls_at };
        process.load_error = Some(format!("the model could not be loaded: {}", error.message));
    }

    fn chunk(&mut self, id: ProcessId, job: &str, attempt: u32, seq: u64, payload: Bytes) {
        let Some(job) = self.current(id, job, attempt) else { return };
        if self.is_unwanted(&job) {
            self.acknowledge(id, &job, attempt, seq);
            return;
        }
        if let Some(held) = self.jobs.get_mut(&job) {
            held.streamed = true;
        }
        self.emit(Effect::Deliver { job, item: OutboxItem::Chunk { attempt, seq, payload } });
    }

    /// A chunk has left the worker: its job may emit another.
    pub(crate) fn chunk_delivered(&mut self, job: &JobId, attempt: u32, seq: u64) {
        let held = self.jobs.get(job).filter(|held| held.attempt == attempt);
        if let Some(place) = held.and_then(Job::place) {
            self.acknowledge(place.process, job, attempt, seq);
        }
    }

    fn acknowledge(&mut self, process: ProcessId, job: &JobId, attempt: u32, seq: u64) {
        let message = ToHandler::ChunkAck { job: job.as_str().to_owned(), attempt, seq };
        self.emit(Effect::Send { process, message, payload: Bytes::new() });
    }

    fn done(&mut self, now: Time, id: ProcessId, job: &JobId, output: Bytes, extras: Extras) {
        let process = self.process(id);
        process.ooms = 0;
        process.strikes = 0;
        match self.jobs.get(job).map(|held| held.state) {
            // Nothing is posted for a job that the platform has stopped.
            Some(JobState::Stopping { why: CancelReason::Stopped, .. }) => {
                self.settle_stopped(now, job, CancelReason::Stopped);
            }
            _ => self.finish(now, job, Outcome::Completed(output), extras),
        }
    }

    fn failed(&mut self, now: Time, id: ProcessId, job: &JobId, payload: &[u8], refresh: bool, reloading: bool) {
        let error = read_error(payload);
        let (kind, message) = (error.kind, first_line(&error.message));
        let place = self.jobs.get(job).and_then(Job::place);
        match self.jobs.get(job).map(|held| held.state) {
            Some(JobState::Stopping { why, .. }) => self.settle_stopped(now, job, why),
            // The handler keeps the same deadline and may notice it a moment before the worker does.
            _ if kind == ErrorKind::Timeout && self.is_nearly_due(now, job) => {
                self.settle_stopped(now, job, CancelReason::Deadline);
            }
            _ => self.finish(now, job, Outcome::Failed(error), Extras { refresh, ..Extras::default() }),
        }
        if reloading && let Some(place) = place {
            let stalls_at = now + self.policy.load_stall_timeout;
            self.process(id).slots[place.slot as usize] = Slot::Loading { stalls_at };
        }
        let process = self.process(id);
        process.ooms = if kind == ErrorKind::Oom { process.ooms + 1 } else { 0 };
        if kind == ErrorKind::DeviceLost {
            self.kill(now, id, &KillCause::DeviceLost);
            self.trouble = Some(format!("{kind}: {message}"));
        } else if self.process(id).ooms >= 2 {
            self.condemn(now, id, KillCause::OutOfMemory);
        }
    }

    /// A result that is too large fails its job; anything else that is too large is a fault of the SDK.
    pub(crate) fn oversize(&mut self, now: Time, id: ProcessId, message: ToSupervisor, payload_len: usize) {
        match message {
            ToSupervisor::Done { job, attempt, .. } => {
                if let Some(job) = self.current(id, &job, attempt) {
                    let message = format!(
                        "the output has {payload_len} bytes, the limit is {}: return a link to stored data instead",
                        runpod_handler_protocol::MAX_PAYLOAD_LEN
                    );
                    self.fail(now, &job, ErrorReport { kind: ErrorKind::Protocol, message, traceback: String::new() });
                }
            }
            _ => self.broke_protocol(now, id, format!("a payload of {payload_len} bytes")),
        }
    }

    pub(crate) fn broke_protocol(&mut self, now: Time, id: ProcessId, reason: String) {
        self.kill(now, id, &KillCause::Protocol(reason));
    }

    /// The job that a message is about, if this process is running that very attempt now.
    fn current(&mut self, id: ProcessId, job: &str, attempt: u32) -> Option<JobId> {
        let job = JobId::from(job);
        let matches = self.jobs.get(&job).is_some_and(|held| held.attempt == attempt && held.runs_in(id));
        if matches {
            return Some(job);
        }
        self.report(Report::LateMessage { job });
        None
    }

    fn is_nearly_due(&self, now: Time, job: &JobId) -> bool {
        self.jobs.get(job).is_some_and(|held| held.deadline <= now + DEADLINE_SLACK)
    }

    /// Whether the platform has stopped the job, so that nothing of it is posted any more.
    fn is_unwanted(&self, job: &JobId) -> bool {
        matches!(self.jobs.get(job).map(|held| held.state), Some(JobState::Stopping { why: CancelReason::Stopped, .. }))
    }
}

fn read_error(payload: &[u8]) -> ErrorReport {
    serde_json::from_slice(payload).unwrap_or_else(|error| ErrorReport {
        kind: ErrorKind::Protocol,
        message: format!("the handler reported a failure that cannot be read: {error}"),
        traceback: String::new(),
    })
}
