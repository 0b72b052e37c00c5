//! Rule: a handler process must start, load and answer within its limits, or it is killed.

use bytes::Bytes;
use runpod_handler_protocol::ToHandler;

use crate::boundary::{Effect, ProcessId, Time};
use crate::states::{KillCause, Phase};
use crate::worker::Worker;

impl Worker {
    /// Kills the processes that are over a limit, and pings those that are due.
    pub(crate) fn expire_processes(&mut self, now: Time) {
        for index in 0..self.processes.len() {
            let id = ProcessId(index);
            let process = &self.processes[index];
            match process.phase {
                Phase::Spawning { until } | Phase::Handshaking { until } if until <= now => {
                    let reason = format!(
                        "the handler did not introduce itself within {:?}: is it built with runpod-handler-sdk?",
                        self.policy.handshake_timeout
                    );
                    self.kill(now, id, &KillCause::Start(reason));
                }
                Phase::Killing { until, .. } if until <= now => self.cannot_be_reaped(now, id),
                _ if process.is_unresponsive(now, &self.policy) => self.kill(now, id, &KillCause::Unresponsive),
                _ if process.is_stalled(now) => {
                    let limit = self.policy.load_stall_timeout;
                    let reason = process.load_error.clone();
                    let reason = reason.unwrap_or_else(|| format!("loading made no progress for {limit:?}"));
                    self.kill(now, id, &KillCause::Start(reason));
                }
                _ if process.probe_timed_out(now) => self.kill(now, id, &KillCause::DeviceLost),
                _ => {
                    if let Some(seq) = self.processes[index].ping_due(now, &self.policy) {
                        let message = ToHandler::Ping { seq };
                        self.emit(Effect::Send { process: id, message, payload: Bytes::new() });
                    }
                }
            }
        }
    }
}
