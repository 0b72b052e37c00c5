//! Rule: how a handler process starts. Spawn, handshake, fitness checks, loading, serving; and what a failed start costs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{CheckReport, CheckStatus, Manifest, PROTOCOL_VERSION, ToHandler};

use crate::boundary::{DrainCause, Effect, ProcessId, Report, StartPhase, Time, Versions};
use crate::handler_text::{first_line, read_error};
use crate::states::{KillCause, Phase};
use crate::worker::Worker;

impl Worker {
    /// Starts the processes whose pause is over.
    pub(crate) fn start_processes(&mut self, now: Time) {
        if !self.may_start() {
            return;
        }
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            if matches!(process.phase, Phase::Backoff { until } if until <= now) {
                process.start(now, &self.policy);
                let (process, incarnation) = (process.id, process.incarnation);
                self.report(Report::ProcessStarting { process, incarnation });
                self.emit(Effect::Spawn { process, incarnation });
            }
        }
    }

    /// The program has started.
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
            batch_reports: true,
        };
        self.emit(Effect::Send { process: id, message, payload: Bytes::new() });
    }

    /// The program could not be started.
    pub(crate) fn spawn_failed(&mut self, now: Time, id: ProcessId, reason: String, permanent: bool) {
        let process = self.process(id);
        process.start_cannot_succeed = permanent;
        process.clear();
        self.start_failed(now, id, reason);
    }

    /// The program has introduced itself: the handshake.
    pub(crate) fn greeted(&mut self, now: Time, id: ProcessId, protocol: u32, sdk_version: &str, payload: &[u8]) {
        if !matches!(self.process(id).phase, Phase::Handshaking { .. }) {
            self.violated_protocol(now, id, "a second hello".to_owned());
            return;
        }
        let (manifest, slots) = match read_hello(protocol, sdk_version, payload, self.policy.slots) {
            Ok(accepted) => accepted,
            Err(reason) => {
                self.refuse_handler(now, id, reason);
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
        self.processes[id.0].begin_loading(manifest, slots, now, &self.policy);
        // The order to check goes ahead of the order to load, so that no model is loaded on an unfit device.
        self.order_checks(id);
        self.emit(Effect::Send { process: id, message, payload: Bytes::new() });
    }

    /// A slot makes progress with its model.
    pub(crate) fn loading(&mut self, now: Time, id: ProcessId, slot: u32, stage: String, done: u64, total: u64) {
        let (stalls_at, models) = (now + self.policy.load_stall_timeout, self.models(id));
        if self.process(id).load_goes_on(slot, models, stalls_at) {
            self.report(Report::Loading { process: id, stage, done, total });
        }
    }

    /// A slot has its model. The process serves once all of them have.
    pub(crate) fn loaded(
        &mut self,
        now: Time,
        id: ProcessId,
        slot: u32,
        device: String,
        load_time: Duration,
        warm_up: Duration,
    ) {
        let models = self.models(id);
        let process = self.process(id);
        if !process.model_loaded(slot, models) {
            return;
        }
        process.device = Some(device.clone());
        if process.phase == Phase::Loading && process.slots.all_loaded() {
            self.models_loaded(now, id, warm_up);
        }
        self.report(Report::SlotReady { process: id, slot, device, load_time });
    }

    /// Number of models in a process.
    pub(crate) fn models(&self, id: ProcessId) -> u32 {
        let manifest = self.processes[id.0].manifest.as_ref();
        manifest.map_or(self.policy.slots, |manifest| manifest.models(self.policy.slots))
    }

    /// A model could not be loaded. The process exits by itself; its reason is kept until then.
    pub(crate) fn load_failed(&mut self, now: Time, id: ProcessId, slot: u32, payload: &[u8]) {
        let error = read_error(payload);
        let (stalls_at, models) = (now + self.policy.exit_timeout, self.models(id));
        let process = self.process(id);
        if !process.load_goes_on(slot, models, stalls_at) {
            self.violated_protocol(now, id, "a load failure of a slot that is not loading".to_owned());
            return;
        }
        process.load_error = Some(format!("the model could not be loaded: {}", error.message));
    }

    /// A start has failed: it is repeated after a pause, or the worker gives up.
    pub(crate) fn start_failed(&mut self, now: Time, id: ProcessId, reason: String) {
        let attempts = self.policy.start_attempts;
        let process = self.process(id);
        process.failed_starts += 1;
        let give_up = process.start_cannot_succeed || process.failed_starts >= attempts;
        let delay = self.processes[id.0].restart_delay(&self.policy);
        self.process(id).phase = if give_up { Phase::GaveUp } else { Phase::Backoff { until: now + delay } };
        self.trouble = Some(reason.clone());
        let retry_in = (!give_up).then_some(delay);
        self.report(Report::StartFailed { process: id, reason: reason.clone(), retry_in });
        if give_up {
            self.begin_drain(now, &DrainCause::Unhealthy { check: "handler_start".into(), reason });
        }
    }

    /// Ends the current part of a start and begins the next one.
    pub(crate) fn start_phase_over(&mut self, now: Time, id: ProcessId, phase: StartPhase) {
        let process = self.process(id);
        let time = now.since(process.start_phase_since);
        process.start_phase_since = now;
        self.report(Report::StartPhase { process: id, phase, time });
    }

    /// Keeps the versions that two of the fitness checks report.
    pub(crate) fn note_checked_version(&mut self, check: &CheckReport) {
        let detail = (check.status == CheckStatus::Ok).then(|| first_line(&check.detail));
        let versions = (*self.versions).clone();
        self.versions = Arc::new(match check.name.as_str() {
            "libtorch" => Versions { libtorch: detail, ..versions },
            "cuda_version" => Versions { cuda: detail, ..versions },
            _ => return,
        });
    }

    /// All models are loaded. Only the handler knows how much of that time was its own warm-up.
    fn models_loaded(&mut self, now: Time, id: ProcessId, warm_up: Duration) {
        let process = self.process(id);
        process.begin_serving(now);
        let time = now.since(process.start_phase_since);
        self.trouble = None;
        let load = time.saturating_sub(warm_up);
        self.report(Report::StartPhase { process: id, phase: StartPhase::Load, time: load });
        self.report(Report::StartPhase { process: id, phase: StartPhase::WarmUp, time: time - load });
    }

    /// Kills a handler that must not be used. Another start would not change that.
    fn refuse_handler(&mut self, now: Time, id: ProcessId, reason: String) {
        self.process(id).start_cannot_succeed = true;
        self.kill(now, id, &KillCause::Start(reason));
    }

    fn note_sdk(&mut self, version: &str) {
        let sdk = Some(first_line(version));
        if self.versions.sdk != sdk {
            self.versions = Arc::new(Versions { sdk, ..(*self.versions).clone() });
        }
    }
}

/// The manifest of a handler and the number of its slots, or why this worker cannot use it.
fn read_hello(protocol: u32, sdk_version: &str, payload: &[u8], models: u32) -> Result<(Arc<Manifest>, u32), String> {
    if protocol != PROTOCOL_VERSION {
        return Err(format!(
            "the handler speaks protocol {protocol} (SDK {sdk_version}), this worker speaks {PROTOCOL_VERSION}: \
             build the handler against runpod-handler-sdk {}",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let manifest: Manifest =
        serde_json::from_slice(payload).map_err(|error| format!("the handler's manifest cannot be read: {error}"))?;
    let slots = manifest.slots(models).map_err(|error| error.to_string())?;
    Ok((Arc::new(manifest), slots))
}
