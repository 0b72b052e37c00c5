//! Rule: what follows from the messages of a handler process. Messages about jobs carry the job and the attempt. Those about
//! a run that has ended are dropped, so that the output of one job never reaches another.

use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ErrorReport, StopReason, ToHandler, ToSupervisor};

use crate::boundary::{Effect, JobId, OutboxItem, ProcessId, Report, Time};
use crate::ending::{Extras, Outcome};
use crate::handler_text::{first_line, read_error};
use crate::states::{Job, JobState, KillCause, Slot};
use crate::worker::Worker;

impl Worker {
    /// Handles one message.
    pub(crate) fn message(&mut self, now: Time, id: ProcessId, message: ToSupervisor, payload: Bytes) {
        match message {
            ToSupervisor::Hello { protocol, sdk_version } => self.greeted(now, id, protocol, &sdk_version, &payload),
            ToSupervisor::Checked => self.checked(now, id, &payload),
            ToSupervisor::Loading { slot, stage, done, total } => self.loading(now, id, slot, stage, done, total),
            ToSupervisor::Loaded { slot, device, millis, warm_up_millis } => {
                let (load_time, warm_up) = (Duration::from_millis(millis), Duration::from_millis(warm_up_millis));
                self.loaded(now, id, slot, device, load_time, warm_up);
            }
            ToSupervisor::LoadFailed { slot } => self.load_failed(now, id, slot, &payload),
            ToSupervisor::Probed { slot, ok } => self.probed(now, id, slot, ok),
            ToSupervisor::Pong { .. } => self.process(id).ponged(now),
            ToSupervisor::Blocked => self.kill(now, id, &KillCause::Blocked),
            ToSupervisor::Concurrency { jobs } => self.concurrency_changed(now, id, jobs),
            ToSupervisor::Started { job, attempt, model } => {
                if let Some(job) = self.current(id, &job, attempt) {
                    self.started(now, id, &job, model);
                }
            }
            ToSupervisor::Batch(batch) => self.batch_begun(id, batch),
            ToSupervisor::Steps(steps) => self.steps_taken(id, steps),
            ToSupervisor::Chunk { job, attempt, seq } => {
                if let Some(job) = self.current(id, &job, attempt) {
                    self.chunk(id, job, attempt, seq, payload);
                }
            }
            ToSupervisor::Progress { job, attempt } => {
                if let Some(job) = self.current(id, &job, attempt).filter(|job| !self.is_cancelled(job)) {
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

    /// A result that is too large fails its job. Any other message that is too large is a fault of the SDK.
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
            _ => self.violated_protocol(now, id, format!("a payload of {payload_len} bytes")),
        }
    }

    /// Kills a process that does not follow the protocol.
    pub(crate) fn violated_protocol(&mut self, now: Time, id: ProcessId, reason: String) {
        self.kill(now, id, &KillCause::Protocol(reason));
    }

    /// A chunk was posted: its job may emit another one.
    pub(crate) fn chunk_delivered(&mut self, job: &JobId, attempt: u32, seq: u64) {
        let held = self.jobs.get(job).filter(|held| held.attempt == attempt);
        if let Some(slot) = held.and_then(Job::slot) {
            self.acknowledge_chunk(slot.process, job, attempt, seq);
        }
    }

    fn started(&mut self, now: Time, id: ProcessId, job: &JobId, model: Option<u32>) {
        let mut waited = None;
        if let Some(mut held) = self.jobs.get_mut(job) {
            held.model = model;
            if let JobState::Assigned(slot) = held.state {
                held.state = JobState::Running(slot);
                waited = held.started_at.map(|sent| now.since(sent));
            }
        }
        if let Some(waited) = waited
            && self.process(id).runs_several_jobs()
        {
            self.report(Report::JobBegun { job: job.clone(), waited });
        }
    }

    fn chunk(&mut self, id: ProcessId, job: JobId, attempt: u32, seq: u64, payload: Bytes) {
        if self.is_cancelled(&job) {
            self.acknowledge_chunk(id, &job, attempt, seq);
            return;
        }
        if let Some(mut held) = self.jobs.get_mut(&job) {
            held.streamed = true;
        }
        self.emit(Effect::Deliver { job, item: OutboxItem::Chunk { attempt, seq, payload } });
    }

    fn acknowledge_chunk(&mut self, process: ProcessId, job: &JobId, attempt: u32, seq: u64) {
        let message = ToHandler::ChunkAck { job: job.as_str().to_owned(), attempt, seq };
        self.emit(Effect::Send { process, message, payload: Bytes::new() });
    }

    fn done(&mut self, now: Time, id: ProcessId, job: &JobId, output: Bytes, extras: Extras) {
        let process = self.process(id);
        process.ooms_in_a_row = 0;
        process.crashes_in_a_row = 0;
        if self.is_cancelled(job) {
            self.finish(now, job, Outcome::Cancelled, Extras::default());
        } else {
            self.finish(now, job, Outcome::Completed(output), extras);
        }
    }

    fn failed(&mut self, now: Time, id: ProcessId, job: &JobId, payload: &[u8], refresh: bool, reloading: bool) {
        let error = read_error(payload);
        let (kind, message) = (error.kind, first_line(&error.message));
        let slot = self.jobs.get(job).and_then(Job::slot);
        match self.jobs.get(job).map(|held| held.state) {
            Some(JobState::Stopping { why, .. }) => self.finish_stopped(now, job, why),
            // The handler keeps the same deadline and may notice it a moment before the worker does.
            _ if kind == ErrorKind::Timeout && self.is_nearly_due(now, job) => {
                self.finish_stopped(now, job, StopReason::Deadline);
            }
            _ => self.finish(now, job, Outcome::Failed(error), Extras { refresh, ..Extras::default() }),
        }
        if reloading && let Some(slot) = slot {
            let stalls_at = now + self.policy.load_stall_timeout;
            self.process(id).slots.set(slot.slot, Slot::Loading { stalls_at });
        }
        let process = self.process(id);
        process.ooms_in_a_row = if kind == ErrorKind::Oom { process.ooms_in_a_row + 1 } else { 0 };
        if kind == ErrorKind::DeviceLost {
            self.kill(now, id, &KillCause::DeviceLost);
            self.trouble = Some(format!("{kind}: {message}"));
        } else if self.process(id).ooms_in_a_row >= 2 {
            self.retire_process(now, id, KillCause::OutOfMemory);
        }
    }

    /// The job that a message is about, if this process runs that very attempt now.
    fn current(&mut self, id: ProcessId, job: &str, attempt: u32) -> Option<JobId> {
        let job = JobId::from(job);
        if self.jobs.get(&job).is_some_and(|held| held.attempt == attempt && held.runs_in(id)) {
            return Some(job);
        }
        self.report(Report::LateMessage { job });
        None
    }

    fn is_nearly_due(&self, now: Time, job: &JobId) -> bool {
        self.jobs.get(job).is_some_and(|held| held.deadline <= now + self.policy.deadline_slack)
    }

    /// Whether a client has cancelled the job, so that nothing more is posted for it.
    fn is_cancelled(&self, job: &JobId) -> bool {
        matches!(self.jobs.get(job).map(|held| held.state), Some(JobState::Stopping { why: StopReason::Cancelled, .. }))
    }
}
