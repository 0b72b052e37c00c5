//! Against a real server on the loopback: what is sent, and what each answer is taken for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::body::{Body as Reply, to_bytes};
use axum::extract::Request;
use axum::http::response::{Builder, Response as HttpResponse};
use axum::routing::any;
use axum::{Router, serve};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::base::{Identity, Secret};
use crate::logs::capture::subscribe;
use crate::outbox::{self, OutboxLimits};
use crate::queue::poller;
use runpod_worker_core::{FinalResult, OutboxItem, TakenJob};

/// One request as the server saw it.
#[derive(Debug)]
struct Seen {
    line: String,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A server that gives scripted replies, 204 when there are none left.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(replies: impl IntoIterator<Item = HttpResponse<Reply>>) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<_>>()));
        let log = Arc::clone(&seen);
        let app = Router::new().fallback(any(move |request: Request| {
            let (log, replies) = (Arc::clone(&log), Arc::clone(&replies));
            async move {
                let (head, body) = request.into_parts();
                let body = to_bytes(body, usize::MAX).await.unwrap();
                log.lock().unwrap().push(Seen {
                    line: format!("{} {}", head.method, head.uri),
                    headers: head.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                });
                replies.lock().unwrap().pop_front().unwrap_or_else(|| status(204))
            }
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { serve(listener, app).await });
        Self { address, seen }
    }

    fn queue(&self) -> HttpQueue {
        self.queue_with("?gpu=A+B%20C")
    }

    /// `tail` ends each of the templates.
    fn queue_with(&self, tail: &str) -> HttpQueue {
        let template =
            |path: &str| UrlTemplate::new(&format!("http://{}/v2/ep/{path}{tail}", self.address), "w1", None).unwrap();
        HttpQueue::new(&QueueConfig {
            take: template("job-take/$ID"),
            done: template("job-done/$RUNPOD_POD_ID/$ID"),
            stream: Some(template("job-stream/$RUNPOD_POD_ID/$ID")),
            key: Secret::new("hunter2"),
            worker_id: "w1".into(),
            extensions: Extensions::default(),
            tenant: None,
        })
        .unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

fn response(status: u16) -> Builder {
    HttpResponse::builder().status(status)
}

fn status(code: u16) -> HttpResponse<Reply> {
    response(code).body(Reply::empty()).unwrap()
}

fn typed(media_type: &str, body: &'static str) -> HttpResponse<Reply> {
    response(200).header("content-type", media_type).body(Reply::from(body)).unwrap()
}

fn json(body: &'static str) -> HttpResponse<Reply> {
    typed("application/json", body)
}

fn retry_later(code: u16) -> HttpResponse<Reply> {
    response(code).header("retry-after", "9").body(Reply::empty()).unwrap()
}

fn redirect(code: u16, to: &str) -> HttpResponse<Reply> {
    response(code).header("location", to).body(Reply::empty()).unwrap()
}

const NINE: Option<Duration> = Some(Duration::from_secs(9));
/// `{"id":"z","input":1}`.
const GZIP_JOB: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab, 0x56, 0xca, 0x4c, 0x51, 0xb2, 0x52, 0xaa, 0x52,
    0xd2, 0x51, 0xca, 0xcc, 0x2b, 0x28, 0x2d, 0x51, 0xb2, 0x32, 0xac, 0x05, 0x00, 0x20, 0xa6, 0x98, 0x5e, 0x14, 0x00,
    0x00, 0x00,
];
const JOB: &str = r#"{"id":"j1","input":{"a":1}}"#;

/// `id` for a job that can run, `id!` for one that is to be failed, or a word for what else came.
fn summary(reply: &TakeReply) -> String {
    match reply {
        TakeReply::Jobs(jobs) => {
            let name = |job: &TakenJob| format!("{}{}", job.id, if job.body.is_ok() { "" } else { "!" });
            jobs.iter().map(name).collect::<Vec<_>>().join(" ")
        }
        TakeReply::Nothing => "nothing".into(),
        TakeReply::RateLimited { retry_after } => format!("rate limited {retry_after:?}"),
        TakeReply::Failed { error, retry_after } => format!("failed {:?} {retry_after:?}", error.kind()),
    }
}

#[tokio::test]
async fn every_answer_to_a_take_is_understood() {
    let gzip = response(200).header("content-type", "application/json").header("content-encoding", "gzip");
    let gzip = gzip.body(Reply::from(GZIP_JOB)).unwrap();
    let created = response(201).header("content-type", "application/json").body(Reply::from(JOB)).unwrap();
    let pieces = ["{\"id\":\"c\",", "\"input\":1}"].map(Ok::<_, std::io::Error>);
    let chunked = Reply::from_stream(stream::iter(pieces));
    let chunked = response(200).header("content-type", "application/json").body(chunked).unwrap();
    let cases = [
        (json(JOB), "j1"),
        (created, "j1"),
        (gzip, "z"),
        (chunked, "c"),
        (typed("application/json; charset=utf-8", JOB), "j1"),
        (typed("Application/JSON", JOB), "j1"),
        (json(r#"[{"id":"a"},{"id":"b","input":null},{"input":1}]"#), "a b"),
        (json(r#"{"id":7,"input":1}"#), "7!"),
        (json(r#"{"id":"j1","input":"#), "j1!"),
        (typed("text/plain", JOB), "j1!"),
        (typed("application/hal+json", JOB), "j1!"),
        (typed("text/html", "<html>"), r#"failed ("unusable", 0) None"#),
        (json("{}"), r#"failed ("unusable", 0) None"#),
        (json("not json"), r#"failed ("unusable", 0) None"#),
        (json(""), "nothing"),
        (json("[]"), "nothing"),
        (json("null"), "nothing"),
        (json("7"), "nothing"),
        (status(204), "nothing"),
        (status(400), "nothing"),
        (status(429), "rate limited None"),
        (retry_later(429), "rate limited Some(9s)"),
        (status(401), r#"failed ("status", 401) None"#),
        (status(404), r#"failed ("status", 404) None"#),
        (status(500), r#"failed ("status", 500) None"#),
        (retry_later(503), r#"failed ("status", 503) Some(9s)"#),
    ];
    let (replies, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let labels: Vec<_> = replies.iter().map(|reply| format!("{reply:?}")).collect();
    let server = Server::start(replies).await;
    let queue = server.queue();
    for (label, expected) in labels.iter().zip(expected) {
        assert_eq!(summary(&queue.take(1, false).await), expected, "{label}");
    }
}

#[tokio::test]
async fn every_answer_on_the_stop_channel_is_understood() {
    let failed = |code, retry_after| StopReply::Failed { error: RequestError::from_status(code), retry_after };
    let cases = [
        (json(r#"{"jobsToStop":["a",1]}"#), StopReply::Stop(vec![JobId::from("a")])),
        (status(204), StopReply::Nothing),
        (json("{}"), StopReply::Nothing),
        (json("not json"), StopReply::Nothing),
        (typed("text/plain", r#"{"jobsToStop":["a"]}"#), StopReply::Nothing),
        (status(429), StopReply::RateLimited { retry_after: None }),
        (status(404), failed(404, None)),
        (retry_later(500), failed(500, NINE)),
    ];
    let (replies, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let server = Server::start(replies).await;
    let queue = server.queue();
    for expected in expected {
        assert_eq!(queue.stops().await, expected);
        assert_eq!(server.lines(), ["GET /v2/ep/job-stop/w1?gpu=A+B%20C"]);
    }
}

#[tokio::test]
async fn takes_use_the_route_and_parameters_of_the_protocol() {
    let server = Server::start([]).await;
    let queue = server.queue();
    queue.take(1, false).await;
    queue.take(1, true).await;
    queue.take(3, true).await;
    let seen = server.seen();
    assert_eq!(seen[0].line, "GET /v2/ep/job-take/w1?gpu=A+B%20C&job_in_progress=0");
    assert_eq!(seen[1].line, "GET /v2/ep/job-take/w1?gpu=A+B%20C&job_in_progress=1");
    assert_eq!(seen[2].line, "GET /v2/ep/job-take-batch/w1?gpu=A+B%20C&batch_size=3&job_in_progress=1");
    assert_eq!(seen[0].header("authorization"), Some("hunter2"));
    assert_eq!(seen[0].header("accept-encoding"), Some("gzip"));
    assert_eq!(seen[0].header("x-request-id"), None);

    let plain = server.queue_with("");
    plain.take(1, false).await;
    plain.take(2, false).await;
    assert_eq!(
        server.lines(),
        ["GET /v2/ep/job-take/w1?job_in_progress=0", "GET /v2/ep/job-take-batch/w1?batch_size=2&job_in_progress=0"]
    );
}

#[tokio::test]
async fn posts_use_the_route_headers_and_body_of_the_protocol() {
    let server = Server::start([status(200), status(200), status(200), status(200)]).await;
    let queue = server.queue();
    let job = JobId::from("j-1");
    let ok = PostReply::Status { code: 200, retry_after: None };
    assert_eq!(queue.post_final(&job, "{\"output\":\"ä\"}".into(), false).await, ok);
    assert_eq!(queue.post_final(&job, "{\"output\":[]}".into(), true).await, ok);
    assert_eq!(queue.post_chunk(&job, "{\"output\":1}".into()).await, ok);
    assert_eq!(queue.post_progress(&job, "{}".into()).await, ok);
    let seen = server.seen();
    let lines: Vec<_> = seen.iter().map(|seen| seen.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "POST /v2/ep/job-done/w1/j-1?gpu=A+B%20C&isStream=false",
            "POST /v2/ep/job-done/w1/j-1?gpu=A+B%20C&isStream=true",
            "POST /v2/ep/job-stream/w1/j-1?gpu=A+B%20C&isStream=false",
            "POST /v2/ep/job-done/w1/j-1?gpu=A+B%20C&isStream=false",
        ]
    );
    assert_eq!(seen[0].body, "{\"output\":\"ä\"}");
    for seen in &seen {
        assert_eq!(seen.header("authorization"), Some("hunter2"));
        assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(seen.header("x-request-id"), Some("j-1"));
    }
}

#[tokio::test]
async fn redirects_that_keep_the_method_are_followed_and_no_others() {
    let to = "/v2/other?kept=1";
    let server = Server::start([redirect(307, to), json(JOB), redirect(307, to), status(200), redirect(302, to)]).await;
    let queue = server.queue();
    let job = JobId::from("j1");
    assert_eq!(summary(&queue.take(1, false).await), "j1");
    let post = queue.post_final(&job, "{\"output\":1}".into(), false).await;
    assert_eq!(post, PostReply::Status { code: 200, retry_after: None });
    let seen = server.seen();
    assert_eq!(seen[1].line, "GET /v2/other?kept=1");
    assert_eq!((seen[3].line.as_str(), seen[3].body.as_str()), ("POST /v2/other?kept=1", "{\"output\":1}"));
    assert_eq!(seen[3].header("authorization"), Some("hunter2"));

    let post = queue.post_final(&job, "{\"output\":1}".into(), false).await;
    assert_eq!(post, PostReply::Status { code: 302, retry_after: None });
    assert_eq!(server.seen().len(), 1, "a redirect that drops the body is not followed");
}

#[tokio::test]
async fn a_result_in_parts_is_sent_as_one_in_one_piece_and_follows_the_same_redirects() {
    let to = "/v2/other?kept=1";
    let server =
        Server::start([status(200), redirect(307, to), redirect(307, to), status(200), redirect(302, to)]).await;
    let queue = server.queue();
    let job = JobId::from("j1");
    let body = ResultBody::new(b"{\"output\":", &format!("\"{}\"", "x".repeat(100_000)).into(), b"}");
    assert!(body.parts().count() > 1);
    for code in [200, 200, 302] {
        assert_eq!(queue.post_final(&job, body.clone(), false).await, PostReply::Status { code, retry_after: None });
    }
    let seen = server.seen();
    let lines: Vec<&str> = seen.iter().map(|seen| seen.line.split('/').nth(2).unwrap()).collect();
    assert_eq!(lines, ["ep", "ep", "ep", "other?kept=1", "ep"]);
    for seen in &seen {
        assert_eq!(seen.body, body.whole());
        assert_eq!(seen.header("content-length"), Some(body.len().to_string().as_str()));
        assert_eq!(seen.header("transfer-encoding"), None);
        assert_eq!(seen.header("authorization"), Some("hunter2"));
        assert_eq!(seen.header("x-request-id"), Some("j1"));
    }
}

#[tokio::test]
async fn a_closed_port_is_a_failure_and_its_text_holds_no_secret() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let server = Server { address, seen: Arc::default() };
    let queue = server.queue_with("?token=hunter2");
    let job = JobId::from("j1");
    let TakeReply::Failed { error: take, .. } = queue.take(1, false).await else { panic!("nobody listens there") };
    let PostReply::Failed(post) = queue.post_final(&job, "{}".into(), false).await else {
        panic!("nobody listens there")
    };
    for error in [take, post] {
        assert_eq!(error.kind(), ("unreachable", 0));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert!(!format!("{queue:?}").contains("hunter2"), "{queue:?}");
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_keys_nor_payloads_reach_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(move || writer.clone());
    let _guard = subscribe(subscriber.finish());

    let bad = json(r#"[{"id":"a","input":"hunter2"},{"input":"hunter2"}]"#);
    let server = Server::start([bad, json("hunter2"), status(401), status(404), status(413), status(400)]).await;
    let queue = Arc::new(server.queue_with("?token=hunter2"));
    let (sender, mut events) = mpsc::channel(10);
    let polls = poller::spawn(Arc::clone(&queue), sender.clone());
    for _ in 0..3 {
        polls.poll(1, false);
        events.recv().await.unwrap();
    }
    let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
    let outbox = outbox::spawn(queue, identity, OutboxLimits::default(), sender);
    let job = JobId::from("j1");
    outbox.send(job.clone(), OutboxItem::Chunk { attempt: 1, seq: 1, payload: "\"hunter2\"".into() });
    let result = Ok("\"hunter2\"".into());
    outbox.send(job, OutboxItem::Final(FinalResult { result, streamed: false, stop_pod: false, cost: None }));
    for _ in 0..2 {
        events.recv().await.unwrap();
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for expected in [
        "neither run nor answered",
        "No jobs can be taken",
        "401",
        "A chunk could not be delivered",
        "could not be delivered",
        "413",
    ] {
        assert!(log.contains(expected), "{expected} is missing in:\n{log}");
    }
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn a_missing_route_is_reported_and_not_guessed() {
    let queue = HttpQueue::new(&QueueConfig {
        take: UrlTemplate::new("http://h/take", "w1", None).unwrap(),
        done: UrlTemplate::new("http://h/done/$ID", "w1", None).unwrap(),
        stream: None,
        key: Secret::default(),
        worker_id: "w1".into(),
        extensions: Extensions::default(),
        tenant: None,
    })
    .unwrap();
    assert_eq!(queue.stops().await, StopReply::Unsupported);
    assert_eq!(queue.post_chunk(&JobId::from("j"), "{}".into()).await, PostReply::NoRoute);
    assert_eq!(queue.take_url(2, false), "http://h/take?batch_size=2&job_in_progress=0");
}

#[test]
fn larger_posts_get_more_time_up_to_the_limit() {
    assert_eq!(post_timeout(0), POST_TIMEOUT);
    assert_eq!(post_timeout(1_000_000), POST_TIMEOUT + Duration::from_secs(10));
    assert_eq!(post_timeout(usize::MAX), POST_TIMEOUT_MAX);
}

/// The same reply from an endpoint with extensions.
fn announcing(mut reply: HttpResponse<Reply>) -> HttpResponse<Reply> {
    let extensions = HeaderValue::from_static("hand-back, goodbye, instance");
    reply.headers_mut().insert("x-runpod-endpoint-extensions", extensions);
    reply
}

#[tokio::test]
async fn runpods_servers_get_no_request_and_no_header_that_they_do_not_know() {
    let server = Server::start([status(204)]).await;
    let queue = server.queue();
    queue.take(1, false).await;
    assert_eq!(queue.hand_back(&["j".into()]).await, PostReply::NoRoute);
    assert_eq!(queue.goodbye().await, PostReply::NoRoute);
    queue.take(1, false).await;
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| request.header("x-runpod-worker-instance").is_none()), "{seen:?}");
}

#[tokio::test]
async fn an_endpoint_that_announces_it_gets_hand_backs_and_a_goodbye() {
    let server = Server::start([announcing(status(204)), announcing(json("{}"))]).await;
    let queue = server.queue();
    queue.take(1, false).await;
    let handed_back = queue.hand_back(&["j\"1".into(), "j2".into()]).await;
    assert_eq!(handed_back, PostReply::Status { code: 200, retry_after: None });
    queue.goodbye().await;
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[1].line, "POST /v2/ep/hand-back/w1?gpu=A+B%20C");
    assert_eq!(seen[1].body, r#"{"jobs":["j\"1","j2"]}"#);
    assert_eq!(seen[1].header("content-type"), Some("application/json"));
    assert!(seen[1].header("authorization").is_some() && seen[1].header("x-runpod-worker-instance").is_some());
    assert_eq!((seen[2].line.as_str(), seen[2].body.as_str()), ("POST /v2/ep/goodbye/w1?gpu=A+B%20C", "{}"));
}

#[tokio::test]
async fn a_second_process_with_the_same_worker_id_asks_seldom_and_knows_why() {
    let server = Server::start([announcing(status(409))]).await;
    let TakeReply::Failed { error, retry_after } = server.queue().take(1, false).await else { panic!("no failure") };
    assert!(error.to_string().contains("another process uses this worker's id"), "{error}");
    assert_eq!(retry_after, Some(CONFLICT_PAUSE));
}
