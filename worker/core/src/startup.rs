//! What is learned of a handler process while it starts: how long each part takes, and what it runs on.

use std::sync::Arc;
use std::time::Duration;

use crate::boundary::{ProcessId, Report, StartPhase, Time, Versions};
use crate::worker::Worker;
use runpod_handler_protocol::{CheckReport, CheckStatus};

/// Longest text of a handler that `/health` and `/ready` show, in characters.
const MAX_TEXT: usize = 256;

/// The first line of a handler's own words, cut.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(MAX_TEXT).collect()
}

impl Worker {
    /// A part of a start is over; the next one begins.
    pub(crate) fn start_phase_over(&mut self, now: Time, id: ProcessId, phase: StartPhase) {
        let process = self.process(id);
        let time = now.since(process.start_phase_since);
        process.start_phase_since = now;
        self.report(Report::StartPhase { process: id, phase, time });
    }

    /// All models are there. How long the last one took to warm up is known from the handler only.
    pub(crate) fn begin_serving(&mut self, now: Time, id: ProcessId, warm_up: Duration) {
        let process = self.process(id);
        process.begin_serving(now);
        let time = now.since(process.start_phase_since);
        self.trouble = None;
        let load = time.saturating_sub(warm_up);
        self.report(Report::StartPhase { process: id, phase: StartPhase::Load, time: load });
        self.report(Report::StartPhase { process: id, phase: StartPhase::WarmUp, time: time - load });
    }

    /// The handler's SDK.
    pub(crate) fn note_sdk(&mut self, version: &str) {
        let sdk = Some(first_line(version));
        if self.versions.sdk != sdk {
            self.versions = Arc::new(Versions { sdk, ..(*self.versions).clone() });
        }
    }

    /// Two of the checks tell a version.
    pub(crate) fn note_checked_version(&mut self, check: &CheckReport) {
        let detail = (check.status == CheckStatus::Ok).then(|| first_line(&check.detail));
        let versions = (*self.versions).clone();
        self.versions = Arc::new(match check.name.as_str() {
            "libtorch" => Versions { libtorch: detail, ..versions },
            "cuda_version" => Versions { cuda: detail, ..versions },
            _ => return,
        });
    }
}
