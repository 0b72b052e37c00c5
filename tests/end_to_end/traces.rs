//! A trace from a client through endpoint, worker and handler.

use std::time::Duration;

use end_to_end_tests::{Endpoint, Receiver, Worker, WorkerOptions, binary};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::readme::{block_of, shell};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Submits a job with a trace context; its id.
async fn submit(endpoint: &Endpoint, input: Value) -> String {
    let request = reqwest::Client::new()
        .post(format!("{}/test/run", endpoint.base))
        .header("traceparent", format!("00-{TRACE}-{CLIENT_SPAN}-01"))
        .json(&json!({ "input": input }));
    let reply: Value = request.send().await.unwrap().json().await.unwrap();
    reply["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_trace_reaches_the_handler_and_the_receiver_of_traces() {
    let (endpoint, receiver) = (Endpoint::start(&[]).await, Receiver::start().await);
    let options = WorkerOptions::flags(&["--otlp-endpoint", &receiver.url]);
    let mut worker = Worker::start(&endpoint, &binary("puppet-handler"), options);
    worker.ready().await;
    let id = submit(&endpoint, json!({"do": "trace"})).await;
    let job = endpoint.client().finished(&id).await;
    let context = job["output"]["traceparent"].as_str().unwrap().to_owned();
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(30)).code(), Some(0));

    let mut spans: Vec<Span> = Vec::new();
    for posted in receiver.posted() {
        assert_eq!(posted.path, "/v1/traces");
        assert_eq!(posted.headers["content-type"], "application/x-protobuf");
        let request = ExportTraceServiceRequest::decode(posted.body).unwrap();
        let groups = request.resource_spans.into_iter().flat_map(|group| group.scope_spans);
        spans.extend(groups.flat_map(|group| group.spans));
    }
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:?}");
    let whole = spans.iter().find(|span| span.name == "job").unwrap();
    assert_eq!(hex(&whole.parent_span_id), CLIENT_SPAN);
    assert_eq!(context, format!("00-{TRACE}-{}-01", hex(&whole.span_id)), "the handler works inside the job's span");
    let mut phases: Vec<&str> =
        spans.iter().filter(|span| span.parent_span_id == whole.span_id).map(|span| span.name.as_str()).collect();
    phases.sort_unstable();
    assert_eq!(phases, ["deliver", "dispatch", "queue", "run", "take"]);
    assert!(worker.daemon.log().contains(&format!("trace_id={TRACE}")), "log lines name the trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_receiver_a_trace_is_passed_on_as_it_came() {
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let id = submit(&endpoint, json!({"do": "trace"})).await;
    let job = endpoint.client().finished(&id).await;
    assert_eq!(job["output"]["traceparent"], format!("00-{TRACE}-{CLIENT_SPAN}-01"));
    assert!(worker.daemon.log().contains(&format!("trace_id={TRACE}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_joins_a_trace_as_the_guide_shows() {
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("echo"), WorkerOptions::default());
    worker.ready().await;
    let script = block_of("docs/logs-and-traces.md", "sh", "curl");
    let script = script.replace("http://127.0.0.1:8000/v2/local", &format!("{}/test", endpoint.base));
    let mut curl = shell("guide", &script, endpoint.daemon.folder());
    assert!(curl.wait(Duration::from_secs(60)).success());
    let reply: Value = serde_json::from_str(curl.log().trim()).unwrap();
    let job = endpoint.client().finished(reply["id"].as_str().unwrap()).await;
    assert_eq!(job["output"], json!({"text": "hello"}));
    assert!(worker.daemon.log().contains(&format!("trace_id={TRACE}")));
}
