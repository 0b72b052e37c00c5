//! Rule: whether a handler process and its device are fit. Both are checked before the first job, and an idle GPU is probed.

use bytes::Bytes;
use runpod_handler_protocol::{CheckReport, ToHandler};

use crate::boundary::{DrainCause, Effect, ProcessId, Report, StartPhase, Time};
use crate::states::{KillCause, Phase, Process, Slot};
use crate::worker::Worker;

impl Worker {
    /// Orders the fitness checks of a process that has not passed them, or has crashed since.
    pub(crate) fn order_checks(&mut self, id: ProcessId) {
        if let Some(order) = self.policy.checks.clone().filter(|_| !self.processes[id.0].fit) {
            self.emit(Effect::Send { process: id, message: ToHandler::Check(order), payload: Bytes::new() });
        }
    }

    /// The fitness checks are over. A worker that fails one takes no job and exits, so that it is replaced.
    pub(crate) fn checked(&mut self, now: Time, id: ProcessId, payload: &[u8]) {
        let checks: Vec<CheckReport> = match serde_json::from_slice(payload) {
            Ok(checks) => checks,
            Err(error) => {
                self.violated_protocol(now, id, format!("the outcome of its checks cannot be read: {error}"));
                return;
            }
        };
        let stalls_at = now + self.policy.load_stall_timeout;
        let process = self.process(id);
        process.fit = true;
        process.slots.set_loading(0, 1, &Slot::Loading { stalls_at });
        self.start_phase_over(now, id, StartPhase::Checks);
        for check in checks {
            self.note_checked_version(&check);
            if check.is_failure() {
                self.process(id).fit = false;
                let (check, reason) = (check.name.clone(), check.reason());
                self.begin_drain(now, &DrainCause::Unhealthy { check: check.into(), reason });
            }
            self.report(Report::Checked { process: id, check });
        }
    }

    /// Probes the GPUs that have been idle for the probe interval.
    pub(crate) fn probe_idle(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let process = &self.processes[index];
            if !self.may_probe(process) || now < process.idle_since + self.policy.probe_interval {
                continue;
            }
            let Some(slot) = process.ready_slot() else { continue };
            let until = now + self.policy.probe_timeout;
            self.process(id).slots.set(slot, Slot::Probing { until });
            self.emit(Effect::Send { process: id, message: ToHandler::Probe { slot }, payload: Bytes::new() });
        }
    }

    /// The answer to a probe. A device that does not work costs the process, as it does when a job finds out.
    pub(crate) fn probed(&mut self, now: Time, id: ProcessId, slot: u32, ok: bool) {
        let process = self.process(id);
        let Some(Slot::Probing { .. }) = process.slots.get(slot) else { return };
        process.slots.set(slot, Slot::Ready);
        process.idle_since = now;
        if !ok {
            self.kill(now, id, &KillCause::DeviceLost);
        }
    }

    /// When the next idle GPU is to be probed.
    pub(crate) fn probe_deadline(&self) -> Option<Time> {
        let idle = self.processes.iter().filter(|process| self.may_probe(process));
        idle.map(|process| process.idle_since + self.policy.probe_interval).min()
    }

    fn may_probe(&self, process: &Process) -> bool {
        let on_gpu = process.device.as_deref().is_some_and(|device| device.starts_with("cuda"));
        self.lifecycle.is_working()
            && !self.policy.probe_interval.is_zero()
            && process.phase == Phase::Serving
            && on_gpu
            && !process.slots.is_probing()
            && process.is_idle()
            && process.ready_slot().is_some()
    }
}
