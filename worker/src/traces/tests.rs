use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue as Attribute};
use opentelemetry_proto::tonic::trace::v1::{Span as Exported, span::SpanKind as Kind, status::StatusCode};
use prost::Message as _;
use runpod_handler_protocol::{ErrorKind, ErrorReport};
use runpod_worker_core::{JobCost, JobStatus, Report, TakenJob};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::base::{Identity, UrlTemplate};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Traces, and what their receiver has got in the end.
struct Fixture {
    traces: Traces,
    export: TraceExport,
    received: mpsc::Receiver<Bytes>,
}

impl Fixture {
    async fn start() -> Self {
        let (sender, received) = mpsc::channel(64);
        let receive = |State(sender): State<mpsc::Sender<Bytes>>, body: Bytes| async move {
            sender.send(body).await.unwrap();
        };
        let router = Router::new().route("/v1/traces", post(receive)).with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let identity = Identity { worker_id: "w-1".into(), hostname: "h".into(), endpoint_id: Some("ep".into()) };
        let config = TraceConfig { endpoint: UrlTemplate::new(&endpoint, "w-1", None).unwrap() };
        let (traces, export) = Traces::start(&config, &identity).unwrap();
        Self { traces, export, received }
    }

    fn taken(&mut self, job: TakenJob) -> TakenJob {
        let mut job = job;
        self.traces.begin(&mut job);
        job
    }

    fn started(&mut self, id: &str, attempt: u32) {
        self.traces.observe(&Report::JobStarted { job: id.into(), attempt, waited: Duration::ZERO });
    }

    fn finished(&mut self, id: &str, status: JobStatus, error: Option<ErrorReport>) {
        self.traces.observe(&Report::JobFinished {
            job: id.into(),
            status,
            error,
            run_time: Duration::ZERO,
            tenant: None,
            stop_time: None,
            cost: JobCost { gpu_time: Duration::ZERO, dollars: None },
            device: Some("cuda:0".into()),
            records: Default::default(),
        });
    }

    fn delivered(&mut self, id: &str) {
        self.traces.observe(&Report::JobDelivered { job: id.into(), accepted: true });
    }

    /// All spans, and the attributes of what sent them.
    async fn spans(mut self) -> (Vec<Exported>, Vec<Attribute>) {
        assert!(self.traces.jobs.is_empty(), "a job is forgotten when it is over");
        self.export.close().await;
        let (mut spans, mut resource) = (Vec::new(), Vec::new());
        while let Ok(body) = self.received.try_recv() {
            for group in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
                resource = group.resource.unwrap().attributes;
                spans.extend(group.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        (spans, resource)
    }
}

fn job(id: &str, traceparent: Option<&str>) -> TakenJob {
    TakenJob { traceparent: traceparent.map(str::to_owned), ..TakenJob::new(id.into(), Ok(Bytes::new())) }
}

fn find<'a>(spans: &'a [Exported], name: &str) -> &'a Exported {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"))
}

fn text(attributes: &[Attribute], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.clone() {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn each_phase_of_a_job_is_a_span_below_its_own() {
    let mut fixture = Fixture::start().await;
    let taken = fixture.taken(TakenJob {
        batch: Some("b-1".into()),
        waited: Some(Duration::from_secs(90)),
        transfer: Duration::from_millis(20),
        ..job("j-1", Some(PARENT))
    });
    fixture.started("j-1", 1);
    fixture.finished("j-1", JobStatus::Completed, None);
    fixture.delivered("j-1");
    let (spans, resource) = fixture.spans().await;

    let whole = find(&spans, "job");
    assert_eq!(hex(&whole.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&whole.parent_span_id), "b7ad6b7169203331");
    assert_eq!(whole.kind, i32::from(Kind::Consumer));
    assert_eq!(text(&whole.attributes, "runpod.job.id").as_deref(), Some("j-1"));
    assert_eq!(text(&whole.attributes, "runpod.batch.id").as_deref(), Some("b-1"));
    assert_eq!(text(&whole.attributes, "runpod.job.status").as_deref(), Some("completed"));
    let expected = format!("00-{}-{}-01", hex(&whole.trace_id), hex(&whole.span_id));
    assert_eq!(taken.traceparent.as_deref(), Some(expected.as_str()), "what the handler is given");

    let phases = ["queue", "take", "dispatch", "run", "deliver"].map(|name| find(&spans, name));
    assert_eq!(spans.len(), 6);
    for phase in phases {
        assert_eq!((&phase.trace_id, &phase.parent_span_id), (&whole.trace_id, &whole.span_id), "{}", phase.name);
    }
    // One phase begins where the last one ended.
    for pair in phases.windows(2) {
        assert!(pair[0].end_time_unix_nano <= pair[1].start_time_unix_nano, "{pair:?}");
    }
    let length = |span: &Exported| Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    assert_eq!((length(phases[0]), length(phases[1])), (Duration::from_secs(90), Duration::from_millis(20)));
    assert_eq!(whole.start_time_unix_nano, phases[0].start_time_unix_nano);
    assert_eq!(text(&phases[3].attributes, "runpod.job.attempt").as_deref(), Some("1"));
    assert_eq!(text(&phases[3].attributes, "runpod.device").as_deref(), Some("cuda:0"));

    assert_eq!(text(&resource, "service.name").as_deref(), Some("runpod-worker"));
    assert_eq!(text(&resource, "service.instance.id").as_deref(), Some("w-1"));
    assert_eq!(text(&resource, "runpod.endpoint.id").as_deref(), Some("ep"));
}

#[tokio::test]
async fn what_went_wrong_stands_where_it_went_wrong() {
    let mut fixture = Fixture::start().await;
    let taken = fixture.taken(job("j-1", None));
    assert!(taken.traceparent.as_deref().and_then(trace_id).is_some(), "a job without a trace gets one");
    fixture.started("j-1", 1);
    fixture.traces.observe(&Report::JobRetried { job: "j-1".into(), reason: "its process died".into() });
    fixture.started("j-1", 2);
    let error = ErrorReport { kind: ErrorKind::Oom, message: "out of memory".into(), traceback: String::new() };
    fixture.finished("j-1", JobStatus::Failed, Some(error));
    fixture.traces.observe(&Report::JobDelivered { job: "j-1".into(), accepted: false });

    // Cancelled while it waited: nothing is posted.
    fixture.taken(job("j-2", None));
    fixture.finished("j-2", JobStatus::Cancelled, None);
    let (spans, _) = fixture.spans().await;

    let status = |span: &Exported| span.status.as_ref().map(|status| (status.code(), status.message.clone()));
    let failed = |text: &str| Some((StatusCode::Error, text.to_owned()));
    let runs: Vec<_> = spans.iter().filter(|span| span.name == "run").map(status).collect();
    assert_eq!(runs, [failed("its process died"), failed("out of memory")]);
    assert_eq!(status(find(&spans, "deliver")), failed("the platform refused the result for good"));
    let whole: Vec<_> = spans.iter().filter(|span| span.name == "job").collect();
    let first = whole.iter().find(|span| text(&span.attributes, "runpod.job.id").as_deref() == Some("j-1")).unwrap();
    assert_eq!(
        (status(first), text(&first.attributes, "error.type").as_deref()),
        (failed("out of memory"), Some("oom"))
    );
    let second = whole.iter().find(|span| text(&span.attributes, "runpod.job.id").as_deref() == Some("j-2")).unwrap();
    let names: Vec<_> = spans.iter().filter(|span| span.trace_id == second.trace_id).map(|span| &*span.name).collect();
    assert_eq!(names, ["take", "dispatch", "job"]);
}

#[tokio::test]
async fn a_job_that_is_not_to_be_traced_is_not_exported() {
    let mut fixture = Fixture::start().await;
    let unsampled = PARENT.replace("-01", "-00");
    let taken = fixture.taken(job("j-1", Some(&unsampled)));
    assert!(taken.traceparent.unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    fixture.finished("j-1", JobStatus::HandedBack, None);
    assert_eq!(fixture.spans().await.0, []);
}

#[test]
fn only_valid_contexts_name_a_trace() {
    assert_eq!(trace_id(PARENT).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    for bad in
        ["", "00-ab-cd-01", "of my own making", &PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32))]
    {
        assert_eq!(trace_id(bad), None, "{bad}");
    }
}
