//! Makes spans from the core's reports.

use std::collections::HashMap;
use std::time::SystemTime;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use runpod_worker_core::{JobId, JobStatus, Report, TakenJob};

use super::export::{TraceConfig, TraceError, TraceExport, provider};
use crate::base::Identity;

/// The header and field that carries a trace context (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
/// Its length in version 00; later versions may add to it.
const TRACEPARENT_LEN: usize = 55;
/// The open spans of all jobs in the worker.
#[derive(Debug)]
pub struct Traces {
    tracer: SdkTracer,
    pub(super) jobs: HashMap<JobId, JobTrace>,
}

/// The open spans of one job.
#[derive(Debug)]
pub(super) struct JobTrace {
    job: Context,
    phase: Option<Span>,
}

impl Traces {
    /// Starts the exporter: a thread with a bounded queue of spans. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the receiver's address or the OpenTelemetry variables cannot be used.
    pub fn start(config: &TraceConfig, identity: &Identity) -> Result<(Self, TraceExport), TraceError> {
        let provider = provider(config, identity)?;
        Ok((Self::new(&provider), TraceExport::new(provider)))
    }

    pub(super) fn new(provider: &SdkTracerProvider) -> Self {
        Self { tracer: provider.tracer("runpod-worker"), jobs: HashMap::new() }
    }

    /// A job has come in. Its trace context becomes that of its new span, which is what the handler is given.
    pub(crate) fn begin(&mut self, taken: &mut TakenJob) {
        if self.jobs.contains_key(&taken.id) {
            return;
        }
        let now = SystemTime::now();
        let received = now.checked_sub(taken.transfer).unwrap_or(now);
        let submitted = taken.waited.and_then(|waited| received.checked_sub(waited));
        let mut attributes = vec![KeyValue::new("runpod.job.id", taken.id.as_str().to_owned())];
        attributes.extend(taken.batch.clone().map(|batch| KeyValue::new("runpod.batch.id", batch)));
        let builder = SpanBuilder::from_name("job")
            .with_kind(SpanKind::Consumer)
            .with_start_time(submitted.unwrap_or(received))
            .with_attributes(attributes);
        let parent = taken.traceparent.as_deref().map_or_else(Context::new, remote);
        let job = Context::new().with_span(self.tracer.build_with_context(builder, &parent));
        if let Some(submitted) = submitted {
            self.child(&job, "queue", submitted).end_with_timestamp(received);
        }
        self.child(&job, "take", received).end_with_timestamp(now);
        let phase = Some(self.child(&job, "dispatch", now));
        taken.traceparent = Some(traceparent(&job));
        self.jobs.insert(taken.id.clone(), JobTrace { job, phase });
    }

    /// Begins and ends spans as the core reports.
    pub(crate) fn observe(&mut self, report: &Report) {
        match report {
            Report::JobStarted { job, attempt, .. } => {
                self.next_phase(job, "run", vec![KeyValue::new("runpod.job.attempt", i64::from(*attempt))], None);
            }
            Report::JobRetried { job, reason } => self.next_phase(job, "dispatch", Vec::new(), Some(reason)),
            Report::JobFinished { job, status, error, device, .. } => {
                let reason = error.as_ref().map(|error| error.message.as_str());
                if let Some(trace) = self.jobs.get_mut(job) {
                    let span = trace.job.span();
                    span.set_attribute(KeyValue::new("runpod.job.status", status.as_str()));
                    if let Some(phase) = trace.phase.as_mut() {
                        phase.set_attributes(device.clone().map(|device| KeyValue::new("runpod.device", device)));
                    }
                    if let Some(error) = error {
                        span.set_attribute(KeyValue::new("error.type", error.kind.as_str()));
                        span.set_status(Status::error(error.message.clone()));
                    }
                }
                match status {
                    JobStatus::Completed | JobStatus::Failed | JobStatus::TimedOut => {
                        self.next_phase(job, "deliver", Vec::new(), reason);
                    }
                    // Nothing is posted for these.
                    JobStatus::Cancelled | JobStatus::HandedBack => self.end(job, None),
                }
            }
            Report::JobDelivered { job, accepted } => {
                self.end(job, (!accepted).then_some("the platform refused the result for good"));
            }
            Report::JobRejected { job } => self.end(job, Some("the worker was already closing")),
            _ => {}
        }
    }

    /// Ends the phase that a job is in, with what went wrong in it, and begins the next one.
    fn next_phase(&mut self, job: &JobId, name: &'static str, attributes: Vec<KeyValue>, error: Option<&str>) {
        let Some(context) = self.jobs.get(job).map(|trace| trace.job.clone()) else { return };
        let now = SystemTime::now();
        let mut next = self.child(&context, name, now);
        next.set_attributes(attributes);
        if let Some(mut last) = self.jobs.get_mut(job).and_then(|trace| trace.phase.replace(next)) {
            fail(&mut last, error);
            last.end_with_timestamp(now);
        }
    }

    fn end(&mut self, job: &JobId, error: Option<&str>) {
        let Some(trace) = self.jobs.remove(job) else { return };
        let now = SystemTime::now();
        if let Some(mut phase) = trace.phase {
            fail(&mut phase, error);
            phase.end_with_timestamp(now);
        }
        trace.job.span().end_with_timestamp(now);
    }

    fn child(&self, job: &Context, name: &'static str, start: SystemTime) -> Span {
        self.tracer.build_with_context(SpanBuilder::from_name(name).with_start_time(start), job)
    }
}

fn fail(span: &mut Span, error: Option<&str>) {
    if let Some(error) = error {
        span.set_status(Status::error(error.to_owned()));
    }
}

/// The trace that a `traceparent` belongs to; `None` when it is not a valid one.
pub(crate) fn trace_id(traceparent: &str) -> Option<String> {
    let context = remote(traceparent);
    let span = context.span();
    span.span_context().is_valid().then(|| span.span_context().trace_id().to_string())
}

/// The context of a span elsewhere. Of a text that names none: a context without a span.
fn remote(traceparent: &str) -> Context {
    // The propagator fills ids up that are too short.
    if traceparent.len() < TRACEPARENT_LEN {
        return Context::new();
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

fn traceparent(context: &Context) -> String {
    let span = context.span();
    let span: &SpanContext = span.span_context();
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}
