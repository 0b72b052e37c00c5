//! Traces: one span for each job and one for each phase of its life, made from the core's reports and exported over OTLP.
//!
//! The spans of a job: `queue` (if the job tells how long it has waited), `take`, `dispatch` (it waits for a slot here), `run`
//! (one per attempt) and `deliver`, all below `job`, whose parent is the `traceparent` that the job came with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::base::{ClientError, Identity, Secret, UrlTemplate, http_client};
use runpod_worker_core::{JobId, JobStatus, Report, TakenJob};

/// The header and field that carries a trace context (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
/// Its length in version 00; later versions may add to it.
const TRACEPARENT_LEN: usize = 55;
/// One export may take this long, attempts and pauses together.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of the program may wait for the last export.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceConfig {
    /// Base URL of an OTLP receiver; `/v1/traces` is appended.
    pub endpoint: UrlTemplate,
}

/// Traces that cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The OpenTelemetry variables or the address do not fit together.
    #[error("traces cannot be exported: {0}; check --otlp-endpoint and the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[from] ExporterBuildError),
    /// No HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Ends the export in an orderly way.
#[derive(Debug)]
pub struct TraceExport(SdkTracerProvider);

impl TraceExport {
    /// Sends what waits, for three seconds at most.
    pub async fn close(self) {
        let flushed = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_LIMIT));
        match timeout(FLUSH_LIMIT, flushed).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("The last traces did not reach their receiver in time."),
        }
    }
}

/// Makes the spans.
#[derive(Debug)]
pub struct Traces {
    tracer: SdkTracer,
    jobs: HashMap<JobId, JobTrace>,
}

/// The open spans of one job.
#[derive(Debug)]
struct JobTrace {
    job: Context,
    phase: Option<Span>,
}

impl Traces {
    /// Starts the exporter: a thread with a bounded queue of spans. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the receiver's address or the OpenTelemetry variables cannot be used.
    pub fn start(config: &TraceConfig, identity: &Identity) -> Result<(Self, TraceExport), TraceError> {
        let url = config.endpoint.for_worker(&identity.worker_id);
        let client = http_client(&Secret::default(), None, reqwest::redirect::Policy::none())?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Exporter { client, runtime: Handle::current(), trouble: AtomicBool::new(false) })
            .with_endpoint(format!("{}/v1/traces", url.trim_end_matches('/')))
            .with_timeout(EXPORT_LIMIT)
            .build()?;
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(identity)).build();
        Ok((Self::new(&provider), TraceExport(provider)))
    }

    fn new(provider: &SdkTracerProvider) -> Self {
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

fn resource(identity: &Identity) -> Resource {
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("runpod-worker");
    }
    resource
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", identity.worker_id.clone()))
        .with_attributes(identity.endpoint_id.clone().map(|id| KeyValue::new("runpod.endpoint.id", id)))
        .build()
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

/// Posts what the OpenTelemetry crates have encoded, with this program's HTTP client. They call it on a thread of their own.
#[derive(Debug)]
struct Exporter {
    client: reqwest::Client,
    runtime: Handle,
    /// The last export failed; it is told once.
    trouble: AtomicBool,
}

impl Exporter {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = self.client.execute(request.try_into()?);
        let sent = self.runtime.spawn(async move {
            let response = timeout(EXPORT_LIMIT, request).await??;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, HttpError>((status, headers, response.bytes().await?))
        });
        let (status, headers, body) = sent.await??;
        let mut response = Response::builder().status(status);
        if let Some(own) = response.headers_mut() {
            *own = headers;
        }
        Ok(response.body(body)?)
    }
}

#[async_trait]
impl HttpClient for Exporter {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let result = self.send(request).await;
        let problem = match &result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(_) => Some("it cannot be reached".to_owned()),
        };
        let known = self.trouble.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !known => {
                tracing::warn!(problem, "The receiver of traces takes none: check --otlp-endpoint. Spans may be lost.");
            }
            None if known => tracing::info!("The receiver of traces takes some again."),
            _ => {}
        }
        result
    }
}

#[cfg(test)]
mod tests;
