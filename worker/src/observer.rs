//! Turns what the core reports into log lines and spans, so that the two cannot disagree.

use crate::logs::{JobTags, close_job, open_job, report};
use crate::traces::{Traces, trace_id};
use runpod_worker_core::{JobId, JobStatus, Report, TakenJob};

/// Hears of every job when it comes and of everything that is reported afterwards.
#[derive(Debug, Default)]
pub struct Observer {
    traces: Option<Traces>,
}

impl Observer {
    /// Logs; with `traces` it also makes spans.
    pub fn new(traces: Option<Traces>) -> Self {
        Self { traces }
    }

    /// Jobs have come in. With traces, what they pass on as trace context becomes their own span.
    pub fn taken(&mut self, jobs: &mut [TakenJob]) {
        for job in jobs {
            if let Some(traces) = &mut self.traces {
                traces.begin(job);
            }
            let trace_id = job.traceparent.as_deref().and_then(trace_id);
            open_job(job.id.as_str(), JobTags { batch: job.batch.clone(), trace_id });
        }
    }

    /// One line, and the spans that begin or end here.
    pub fn observe(&mut self, report: &Report) {
        report::log(report);
        if let Some(traces) = &mut self.traces {
            traces.observe(report);
        }
        if let Some(job) = last_word(report) {
            close_job(job.as_str());
        }
    }
}

/// The job that has left the worker with this report.
fn last_word(report: &Report) -> Option<&JobId> {
    match report {
        Report::JobDelivered { job, .. }
        | Report::JobRejected { job }
        | Report::JobFinished { job, status: JobStatus::Cancelled | JobStatus::HandedBack, .. } => Some(job),
        _ => None,
    }
}
