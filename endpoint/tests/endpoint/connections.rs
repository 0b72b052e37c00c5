//! Real sockets: connections that break, servers that stop.

use std::sync::Arc;
use std::time::Duration;

use end_to_end_tests::eventually;
use runpod_endpoint::api::{Keys, Secret};
use runpod_endpoint::server::{Server, ServerConfig, ServerError};
use runpod_endpoint::store::{Limits, MemoryStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{Api, HOLD, SOON};

fn config() -> ServerConfig {
    ServerConfig {
        bind: ([127, 0, 0, 1], 0).into(),
        keys: Keys::default(),
        insecure: false,
        hold: HOLD,
        max_result_bytes: 1 << 20,
        options: Arc::default(),
    }
}

struct Running {
    address: String,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start() -> Running {
    start_with(config()).await
}

async fn start_with(config: ServerConfig) -> Running {
    let server = Server::bind(config).await.unwrap();
    let address = server.base_url().trim_start_matches("http://").to_owned();
    let shutdown = CancellationToken::new();
    let store = Arc::new(MemoryStore::new(Limits::default()));
    let task = tokio::spawn(server.run(store, CancellationToken::new(), shutdown.clone()));
    Running { address, shutdown, task }
}

impl Running {
    async fn open(&self, request: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/ep/{path}", self.address)
    }

    async fn text(&self, path: &str) -> String {
        reqwest::get(self.url(path)).await.unwrap().text().await.unwrap()
    }

    /// The reply, once it contains `part`.
    async fn text_with(&self, path: &str, part: &str) -> String {
        eventually(&format!("{path} with {part}"), || async {
            Some(self.text(path).await).filter(|text| text.contains(part))
        })
        .await
    }
}

const POLL: &str = "GET /v2/ep/job-take/lost?gpu=LOCAL HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn submit(server: &Running, input: &str) {
    let body = format!(r#"{{"input": {input}}}"#);
    let reply = reqwest::Client::new().post(server.url("run")).body(body).send().await.unwrap();
    assert!(reply.status().is_success());
}

#[tokio::test]
async fn a_poll_whose_connection_is_gone_gets_no_job() {
    let server = start().await;
    let held = server.open(POLL).await;
    server.text_with("health", r#""idle":1"#).await;
    drop(held);
    submit(&server, "1").await;
    let job = timeout(SOON, server.text("job-take/w1")).await.unwrap();
    assert!(job.contains(r#""input":1"#), "{job}");
    let status = server.text("requests").await;
    assert!(!status.contains("retries"), "no worker ever had it: {status}");
}

#[tokio::test]
async fn a_reply_that_cannot_be_written_puts_the_job_back() {
    let server = start().await;
    // Larger than what the system buffers, so that the reply waits for a reader that never comes.
    let input = format!("\"{}\"", "x".repeat(9 << 20));
    submit(&server, &input).await;
    let mut stuck = server.open(POLL).await;
    let mut some = [0; 1024];
    assert!(stuck.read(&mut some).await.unwrap() > 0, "the delivery has begun");
    assert!(server.text("health").await.contains(r#""inProgress":1"#));
    drop(stuck);
    let health = server.text_with("health", r#""inQueue":1"#).await;
    assert!(health.contains(r#""retried":0"#), "{health}");
}

#[tokio::test]
async fn a_delivered_reply_has_a_length_and_stays_delivered() {
    let server = start().await;
    submit(&server, "1").await;
    let mut socket = server.open(&POLL.replace("Host: localhost", "Host: localhost\r\nConnection: close")).await;
    let mut reply = String::new();
    timeout(SOON, socket.read_to_string(&mut reply)).await.unwrap().unwrap();
    assert!(reply.contains("content-length: ") && reply.ends_with(r#""input":1}"#), "{reply}");
    drop(socket);
    assert!(server.text("health").await.contains(r#""inProgress":1"#));
}

#[tokio::test]
async fn an_oversized_body_is_answered_and_not_reset() {
    let server = start().await;
    let body = format!(r#"{{"input": "{}"}}"#, "x".repeat(30 << 20));
    let reply = reqwest::Client::new().post(server.url("run")).body(body).send().await.unwrap();
    assert_eq!(reply.status(), 400);
    assert!(reply.text().await.unwrap().contains("exceeded max body size of 10MiB"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_request_is_cut_off_and_one_that_waits_for_an_answer_is_not() {
    let server = start().await;
    submit(&server, "1").await;
    let started = Instant::now();
    let slow = async {
        let mut socket = server.open("GET /v2/ep/health HTTP/1.1\r\nHost: ").await;
        for _ in 0..1000 {
            sleep(Duration::from_secs(10)).await;
            if socket.write_all(b"x").await.is_err() {
                break;
            }
        }
        // What was sent to a closed connection is answered with a reset.
        let _ = socket.read_to_end(&mut Vec::new()).await;
        started.elapsed()
    };
    let patient = async {
        let body = r#"{"input": 2}"#;
        let head = format!("POST /v2/ep/runsync?wait=200000 HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        let mut socket = server.open(&format!("{head}Host: localhost\r\nConnection: close\r\n\r\n{body}")).await;
        let mut reply = String::new();
        socket.read_to_string(&mut reply).await.unwrap();
        (reply, started.elapsed())
    };
    let (cut_off, (reply, answered)) = tokio::join!(slow, patient);
    assert!(cut_off <= Duration::from_secs(150), "{cut_off:?}");
    assert!(reply.contains("IN_QUEUE") && answered >= Duration::from_secs(200), "{reply} after {answered:?}");
}

#[tokio::test]
async fn stopping_ends_held_requests() {
    let server = start().await;
    let polls = ["job-take/w1", "job-stop/w1"].map(|path| {
        let url = server.url(path);
        tokio::spawn(async move { reqwest::get(url).await.unwrap().status().as_u16() })
    });
    server.text_with("health", r#""idle":1"#).await;
    server.shutdown.cancel();
    for poll in polls {
        assert_eq!(timeout(SOON, poll).await.unwrap().unwrap(), 204);
    }
    timeout(SOON, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_fix() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bind = taken.local_addr().unwrap();
    let error = Server::bind(ServerConfig { bind, ..config() }).await.err().unwrap().to_string();
    assert!(error.contains(&bind.to_string()) && error.contains("--bind"), "{error}");
}

#[tokio::test]
async fn behind_a_proxy_every_name_is_answered_to_when_the_operator_says_so() {
    for (insecure, status) in [(false, 403), (true, 200)] {
        let server = start_with(ServerConfig { insecure, ..config() }).await;
        let request = reqwest::Client::new().get(server.url("health")).header("Host", "ep.example");
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status().as_u16(), status);
        assert_eq!(reply.text().await.unwrap().contains("--insecure-no-auth"), !insecure);
    }
}

#[tokio::test]
async fn the_network_is_not_let_in_without_both_keys() {
    let open = ServerConfig { bind: ([0, 0, 0, 0], 0).into(), ..config() };
    let half = Keys { client: Some(Secret::from("k")).into(), ..Keys::default() };
    for keys in [Keys::default(), half] {
        let error = Server::bind(ServerConfig { keys, ..open.clone() }).await.err().unwrap();
        assert!(matches!(error, ServerError::Unprotected(_)), "{error}");
    }
    let both =
        Keys { client: Some(Secret::from("k")).into(), worker: Some(Secret::from("k")).into(), ..Keys::default() };
    assert!(Server::bind(ServerConfig { keys: both, ..open.clone() }).await.is_ok());
    assert!(Server::bind(ServerConfig { insecure: true, ..open }).await.is_ok());
    let empty = Keys { client: Some(Secret::from(" ")).into(), ..Keys::default() };
    assert!(Server::bind(ServerConfig { keys: empty, ..config() }).await.is_err());
}

#[tokio::test]
async fn a_loopback_server_without_keys_answers_to_local_names_only() {
    let server = start().await;
    for (host, status) in [("evil.example", "403"), ("localhost", "200"), (&*server.address, "200")] {
        for path in ["v2/ep/health", "console/endpoints"] {
            let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let mut reply = String::new();
            server.open(&request).await.read_to_string(&mut reply).await.unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{path} as {host}: {reply}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_nobody_reads_puts_the_job_back() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let request = axum::http::Request::get("/v2/ep/job-take-batch/w1?batch_size=2").body(axum::body::Body::empty());
    let response = tower::ServiceExt::oneshot(api.router.clone(), request.unwrap()).await.unwrap();
    assert_eq!(api.state(&id).await, "IN_PROGRESS");
    drop(response);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(api.state(&id).await, "IN_QUEUE");
}
