//! Turns the core's reports into log lines and spans. Both are made from the same report, so they cannot disagree.

use crate::logs::{JobTags, close_job, open_job, report};
use crate::traces::{Traces, trace_id};
use runpod_worker_core::{JobId, JobStatus, Report, TakenJob};

/// Receives every job when it is taken, and every report after that.
#[derive(Debug, Default)]
pub struct Observer {
    traces: Option<Traces>,
}

impl Observer {
    /// Logs; with `traces` it also makes spans.
    pub fn new(traces: Option<Traces>) -> Self {
        Self { traces }
    }

    /// Records jobs that were taken. With traces, the trace context that a job passes on becomes that of its own span.
    pub fn taken(&mut self, jobs: &mut [TakenJob]) {
        for job in jobs {
            if let Some(traces) = &mut self.traces {
                traces.begin(job);
            }
            let trace_id = job.traceparent.as_deref().and_then(trace_id);
            open_job(job.id.as_str(), JobTags { batch: job.batch.clone(), trace_id });
        }
    }

    /// Logs a report, and begins or ends the spans that belong to it.
    pub fn observe(&mut self, report: &Report) {
        report::log(report);
        if let Some(traces) = &mut self.traces {
            traces.observe(report);
        }
        if let Some(job) = closed_job(report) {
            close_job(job.as_str());
        }
    }
}

/// The job that has left the worker with this report.
fn closed_job(report: &Report) -> Option<&JobId> {
    match report {
        Report::JobDelivered { job, .. }
        | Report::JobRejected { job }
        | Report::JobFinished { job, status: JobStatus::Cancelled | JobStatus::HandedBack, .. } => Some(job),
        _ => None,
    }
}
