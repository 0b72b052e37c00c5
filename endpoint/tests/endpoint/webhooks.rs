//! Webhooks, as their receivers see them.

use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use end_to_end_tests::eventually;
use runpod_endpoint::api::Catalog;
use runpod_endpoint::api::{Keys, Options, Secret};
use runpod_endpoint::store::{Limits, MemoryStore, OpenError, Policy, Setup, SqliteStore, WebhookQueue};
use runpod_endpoint::webhooks::{Guard, Schedule, Signer, TargetCheck, Webhooks};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Api, SOON};

struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A receiver that answers with each of `answers` in turn and then with 200.
struct Receiver {
    url: String,
    received: mpsc::Receiver<Received>,
}

impl Receiver {
    async fn start(answers: &[u16]) -> Self {
        let (sender, received) = mpsc::channel(100);
        let (answers_in, answers_out) = std::sync::mpsc::sync_channel(100);
        answers.iter().for_each(|answer| answers_in.send(*answer).unwrap());
        let state = Arc::new((sender, std::sync::Mutex::new(answers_out)));
        let router = Router::new().route("/hook", post(receive)).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, received }
    }

    async fn next(&mut self) -> Received {
        timeout(SOON, self.received.recv()).await.unwrap().unwrap()
    }
}

type ReceiverState = Arc<(mpsc::Sender<Received>, std::sync::Mutex<std::sync::mpsc::Receiver<u16>>)>;

async fn receive(State(state): State<ReceiverState>, headers: HeaderMap, body: String) -> StatusCode {
    state.0.send(Received { headers, body }).await.unwrap();
    let answer = state.1.lock().unwrap().try_recv().unwrap_or(200);
    StatusCode::from_u16(answer).unwrap()
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An endpoint whose webhooks may reach this machine and whose pauses are short.
fn endpoint(allowed: &[&str], signed: bool) -> Api {
    let allowed: Vec<_> = allowed.iter().map(|network| network.parse().unwrap()).collect();
    let signer = signed.then(|| Signer::new(&Secret::from(SECRET)).unwrap());
    endpoint_with(Guard::new(&allowed), signer, Limits::default(), Policy::default())
}

fn endpoint_with(guard: Guard, signer: Option<Signer>, limits: Limits, policy: Policy) -> Api {
    let (queue, due) = WebhookQueue::channel();
    let store = MemoryStore::new(Setup { webhooks: queue, limits, ..Setup::default() });
    let catalog = Catalog { policies: [("ep".to_owned(), policy)].into(), ..Catalog::default() };
    let options = Options { webhooks: TargetCheck::new(guard.clone()), catalog, ..Options::default() };
    let api = Api::build(Keys::default(), options, store);
    let webhooks = Webhooks::new(Arc::clone(&api.app.store), guard, signer).unwrap();
    let webhooks = webhooks.with_schedule(Schedule::of(vec![Duration::from_millis(1); 2]));
    tokio::spawn(webhooks.run(due, CancellationToken::new()));
    api
}

fn loopback() -> Guard {
    Guard::new(&["127.0.0.0/8".parse().unwrap()])
}

const LOOPBACK: &[&str] = &["127.0.0.0/8"];

async fn submit(api: &Api, url: &str) -> String {
    let id = api.run(&json!({"input": {"x": 1}, "webhook": url}).to_string()).await;
    assert_eq!(api.take("w1").await, id);
    id
}

#[tokio::test]
async fn the_body_is_the_job_document_with_input_and_webhook() {
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, false);
    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, r#"{"output": {"y": 2.50}, "cost": {"gpuSeconds": 0.50}}"#).await;
    let received = receiver.next().await;
    let mut expected = api.status(&id).await;
    expected["input"] = json!({"x": 1});
    expected["webhook"] = json!(receiver.url);
    assert_eq!(received.json(), expected);
    assert!(received.body.contains(r#"{"gpuSeconds": 0.50}"#), "{}", received.body);
    assert!(received.body.contains(r#"{"y": 2.50}"#), "payloads are not re-encoded: {}", received.body);
    assert_eq!(received.headers["content-type"], "application/json");

    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    let failed = receiver.next().await.json();
    assert_eq!((failed["status"].as_str(), failed["error"].as_str()), (Some("FAILED"), Some("no")));
}

#[tokio::test]
async fn a_trace_goes_with_the_job_and_its_webhook() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, false);
    let body = json!({"input": {}, "webhook": receiver.url}).to_string();
    for (sent, passed_on) in [(Some(TRACE), Some(TRACE)), (Some("of my own making"), None), (None, None)] {
        let mut request = Request::post("/v2/ep/run");
        if let Some(sent) = sent {
            request = request.header("traceparent", sent);
        }
        let id = api.send(request.body(Body::from(body.clone())).unwrap()).await.field("id");
        let job = api.get("job-take/w1?gpu=LOCAL&job_in_progress=0").await.json();
        assert_eq!((job["id"].as_str(), job["traceparent"].as_str()), (Some(&*id), passed_on));
        assert_eq!(job["delayTime"].is_u64(), passed_on.is_some(), "{job}");
        api.done("w1", &id, "{}").await;
        let received = receiver.next().await;
        assert_eq!(received.headers.get("traceparent").map(|value| value.to_str().unwrap()), passed_on);
    }
}

#[tokio::test]
async fn three_attempts_are_made_and_no_more() {
    let mut receiver = Receiver::start(&[500, 404, 503]).await;
    let api = endpoint(LOOPBACK, false);
    let first = submit(&api, &receiver.url).await;
    api.done("w1", &first, "{}").await;
    let mut message_ids = HashSet::new();
    for _ in 0..3 {
        let received = receiver.next().await;
        assert_eq!(received.json()["id"], first);
        message_ids.insert(received.headers["webhook-id"].clone());
    }
    assert_eq!(message_ids.len(), 1, "repetitions of one message");
    // The fourth answer would be a success, so that what comes next is another job's.
    let second = submit(&api, &receiver.url).await;
    api.done("w1", &second, "{}").await;
    assert_eq!(receiver.next().await.json()["id"], second);
}

#[tokio::test]
async fn the_end_after_a_retry_is_another_message() {
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, false);
    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    let first = receiver.next().await.headers["webhook-id"].clone();
    api.post(&format!("retry/{id}"), "").await;
    assert_eq!(api.take("w1").await, id);
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    let second = receiver.next().await;
    assert_eq!(second.json()["id"], id);
    assert_ne!(second.headers["webhook-id"], first);
}

#[tokio::test]
async fn a_cancelled_job_sends_nothing() {
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, false);
    let cancelled = submit(&api, &receiver.url).await;
    api.post(&format!("cancel/{cancelled}"), "").await;
    let other = submit(&api, &receiver.url).await;
    api.done("w1", &other, "{}").await;
    assert_eq!(receiver.next().await.json()["id"], other);
}

#[tokio::test]
async fn a_receiver_that_never_answers_delays_neither_jobs_nor_other_receivers() {
    // Connections are accepted by the system and nobody ever reads them.
    let silent = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let silent_url = format!("http://{}/", silent.local_addr().unwrap());
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, false);
    for _ in 0..100 {
        let id = submit(&api, &silent_url).await;
        api.done("w1", &id, "{}").await;
        assert_eq!(api.state(&id).await, "COMPLETED");
    }
    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, "{}").await;
    assert_eq!(receiver.next().await.json()["id"], id);
}

#[tokio::test]
async fn this_machine_is_not_reached_unless_allowed() {
    let mut receiver = Receiver::start(&[]).await;
    let closed = endpoint(&["10.0.0.0/8"], false);
    for url in [&*receiver.url, &receiver.url.replace("127.0.0.1", "localhost"), "no url", "ftp://example.org/hook"] {
        for route in ["run", "runsync"] {
            let reply = closed.post(route, json!({"input": 1, "webhook": url}).to_string()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{url}");
            let error = reply.field("error");
            let is_address = url.contains("/hook") && url.starts_with("http:");
            assert_eq!(error.contains("--webhook-allow"), is_address, "{error}");
            assert!(error.starts_with("`webhook` can never be delivered: "), "{error}");
        }
    }
    assert_eq!(closed.get("health").await.json()["jobs"]["inQueue"], 0, "nothing was queued");
    let open = endpoint(LOOPBACK, false);
    let id = submit(&open, &receiver.url).await;
    open.done("w1", &id, "{}").await;
    assert_eq!(receiver.next().await.json()["id"], id);
}

#[tokio::test]
async fn a_job_that_expires_is_reported_like_one_that_ends_otherwise() {
    let mut receiver = Receiver::start(&[]).await;
    let policy = Policy { ttl: Duration::from_millis(200), ..Policy::default() };
    let api = endpoint_with(loopback(), None, Limits::default(), policy);
    let waits = api.run(&json!({"input": {"n": 1}, "webhook": receiver.url}).to_string()).await;
    let report = receiver.next().await.json();
    assert_eq!((&report["id"], &report["status"]), (&json!(waits), &json!("TIMED_OUT")));
    assert!(report["error"].as_str().unwrap().contains("ttl"), "{report}");
    assert_eq!(report["input"], json!({"n": 1}));
    let runs = submit(&api, &receiver.url).await;
    assert_eq!(receiver.next().await.json()["id"], runs);
    eventually("the record to go once it is reported", || async {
        (api.get(&format!("status/{runs}")).await.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_job_is_reported_where_that_is_wanted() {
    let mut receiver = Receiver::start(&[]).await;
    let limits = Limits { report_cancelled: true, ..Limits::default() };
    let api = endpoint_with(loopback(), None, limits, Policy::default());
    let running = submit(&api, &receiver.url).await;
    api.post(&format!("cancel/{running}"), "").await;
    let report = receiver.next().await.json();
    assert_eq!((&report["id"], &report["status"]), (&json!(running), &json!("CANCELLED")));
    let waiting = api.run(&json!({"input": 1, "webhook": receiver.url}).to_string()).await;
    api.post("purge-queue", "").await;
    assert_eq!(receiver.next().await.json()["id"], waiting);
}

/// Ends a job whose webhook is given up; its id.
async fn given_up(api: &Api, url: &str) -> String {
    let id = submit(api, url).await;
    api.done("w1", &id, r#"{"output": 1}"#).await;
    let listed = format!("\"id\":\"{id}\"");
    eventually("the webhook to be given up", || async {
        api.get("webhooks").await.text.contains(&listed).then_some(())
    })
    .await;
    id
}

#[tokio::test]
async fn what_was_given_up_is_listed_and_can_be_sent_again() {
    let mut receiver = Receiver::start(&[500; 6]).await;
    let api = endpoint(LOOPBACK, false);
    let url = format!("{}?token=s3cret", receiver.url);
    let (first, second) = (given_up(&api, &url).await, given_up(&api, &url).await);
    let list = api.get("webhooks?limit=1").await;
    assert!(!list.text.contains("s3cret"), "{}", list.text);
    let list = list.json();
    assert_eq!(
        (&list["total"], &list["hasMore"], &list["webhooks"][0]["id"]),
        (&json!(2), &json!(true), &json!(second))
    );
    let entry = &api.get("webhooks?offset=1").await.json()["webhooks"][0];
    assert_eq!((&entry["id"], &entry["status"]), (&json!(first), &json!("COMPLETED")));
    assert_eq!(entry["receiver"], receiver.url.trim_end_matches("/hook"));
    assert!(entry["reason"].as_str().unwrap().contains("500"), "{entry}");
    assert!(entry["givenUpAt"].as_str().unwrap().ends_with('Z'), "{entry}");
    let mut last = String::new();
    for _ in 0..6 {
        last = receiver.next().await.headers["webhook-id"].to_str().unwrap().to_owned();
    }

    assert_eq!(api.post(&format!("webhooks/resend/{second}"), "").await.json(), json!({"resent": 1}));
    let again = receiver.next().await;
    assert_eq!(
        again.headers["webhook-id"].to_str().unwrap(),
        last,
        "the receiver can tell that it is the same message"
    );
    assert_eq!(api.post("webhooks/resend", "").await.json(), json!({"resent": 1}));
    assert_eq!(receiver.next().await.json()["id"], first);
    eventually("an empty list", || async { (api.get("webhooks").await.json()["total"] == 0).then_some(()) }).await;
    let reply = api.post(&format!("webhooks/resend/{second}"), "").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
}

#[tokio::test]
async fn a_retried_job_is_no_longer_listed_as_given_up() {
    let receiver = Receiver::start(&[500; 3]).await;
    let api = endpoint(LOOPBACK, false);
    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    eventually("the webhook to be given up", || async {
        (api.get("webhooks").await.json()["total"] == 1).then_some(())
    })
    .await;
    api.post(&format!("retry/{id}"), "").await;
    assert_eq!(api.get("webhooks").await.json()["total"], 0);
}

#[tokio::test]
async fn two_ports_of_one_host_are_two_receivers() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}/hook", silent.local_addr().unwrap());
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, false);
    for _ in 0..200 {
        let id = submit(&api, &silent_url).await;
        api.done("w1", &id, "{}").await;
    }
    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, "{}").await;
    assert_eq!(receiver.next().await.json()["id"], id);
}

/// An endpoint with this data file, delivering with long pauses after a failure until `heard`.
async fn one_life(file: &Path, work: impl AsyncFnOnce(&Api), heard: impl Future<Output = ()>) {
    let opening = async {
        loop {
            let (webhooks, due) = WebhookQueue::channel();
            match SqliteStore::open(file, Setup { webhooks, ..Setup::default() }) {
                Ok(store) => return (store, due),
                // A timer of the store that was dropped may hold on to it for another moment.
                Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (store, due) = timeout(SOON, opening).await.unwrap();
    let options = Options { webhooks: TargetCheck::new(loopback()), ..Options::default() };
    let api = Api::build(Keys::default(), options, store);
    let webhooks = Webhooks::new(Arc::clone(&api.app.store), loopback(), None).unwrap();
    let stop = CancellationToken::new();
    let delivering = webhooks.with_schedule(Schedule::of(vec![Duration::from_secs(3600); 2])).run(due, stop.clone());
    let end = async {
        work(&api).await;
        heard.await;
        stop.cancel();
    };
    tokio::join!(delivering, end);
}

#[tokio::test]
async fn a_delivery_that_a_stop_interrupts_begins_anew_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let mut receiver = Receiver::start(&[503]).await;
    let url = receiver.url.clone();
    let mut told = Vec::new();
    let finish_a_job = async |api: &Api| {
        let id = submit(api, &url).await;
        api.done("w1", &id, r#"{"output": 1}"#).await;
    };
    one_life(&file, finish_a_job, async { told.push(receiver.next().await.json()) }).await;
    one_life(&file, async |_: &Api| {}, async { told.push(receiver.next().await.json()) }).await;
    assert_eq!((&told[0], &told[0]["output"]), (&told[1], &json!(1)));
}

/// The first code block of the documentation in this language that contains `part`.
fn documented(language: &str, part: &str) -> String {
    let text = include_str!("../../../docs/endpoint.md");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("\n```").next());
    blocks.find(|block| block.contains(part)).unwrap_or_else(|| panic!("no {language} block has {part}")).to_owned()
}

#[tokio::test]
async fn the_documented_python_code_verifies_a_delivery() {
    let mut receiver = Receiver::start(&[]).await;
    let api = endpoint(LOOPBACK, true);
    let id = submit(&api, &receiver.url).await;
    api.done("w1", &id, r#"{"output": "ä"}"#).await;
    let received = receiver.next().await;
    assert!(received.headers["webhook-id"].to_str().unwrap().starts_with(&id));
    let header = |name: &str| received.headers[name].to_str().unwrap().to_owned();
    let headers = json!({
        "webhook-id": header("webhook-id"),
        "webhook-timestamp": header("webhook-timestamp"),
        "webhook-signature": header("webhook-signature"),
    });
    let check = format!(
        "{}\nimport json, sys\nheaders, body, secret = json.loads(sys.argv[1]), sys.argv[2].encode(), sys.argv[3]\n\
         assert verify(secret, headers, body)\n\
         assert not verify(secret, headers, body + b' ')\n\
         assert not verify('whsec_AAAA', headers, body)\n\
         headers['webhook-timestamp'] = '1600000000'\n\
         assert not verify(secret, headers, body)\n",
        documented("python", "def verify")
    );
    #[expect(clippy::disallowed_methods, reason = "the test runs the documented code")]
    let mut python = tokio::process::Command::new("python3");
    let run = python.arg("-c").arg(check).args([&headers.to_string(), &received.body, SECRET]).output();
    let output = timeout(SOON, run).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
