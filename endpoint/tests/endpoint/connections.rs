//! Real sockets: connections that break, servers that stop.

use std::sync::Arc;
use std::time::Duration;

use end_to_end_tests::eventually;
use runpod_endpoint::api::{Keys, Secret};
use runpod_endpoint::server::{Server, ServerConfig, ServerError};
use runpod_endpoint::store::{Limits, MemoryStore};
use runpod_http_server::ServerLimits;
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
        limits: ServerLimits::default(),
        request_memory: 64 << 20,
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

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn readers_of_a_large_result_that_do_not_read_share_one_copy() {
    let server = start_with(ServerConfig { max_result_bytes: 64 << 20, ..config() }).await;
    submit(&server, "1").await;
    let id = server.text("job-take/w1").await.split('"').nth(3).unwrap().to_owned();
    let result = format!(r#"{{"output": "{}"}}"#, "x".repeat(40 << 20));
    let posted = reqwest::Client::new().post(server.url(&format!("job-done/w1/{id}"))).body(result).send().await;
    assert_eq!(posted.unwrap().status(), 200);
    let before = resident();
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut socket = server.open(&format!("GET /v2/ep/status/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let mut some = [0; 16];
        socket.read_exact(&mut some).await.unwrap();
        readers.push(socket);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MiB for 20 readers of 40 MiB", grown >> 20);
    let whole = server.text(&format!("status/{id}")).await;
    assert!(whole.len() > 40 << 20 && whole.ends_with(r#""status":"COMPLETED","workerId":"w1"}"#), "{}", whole.len());
}

#[tokio::test(start_paused = true)]
async fn documents_that_are_sent_in_parts_are_whole() {
    let api = Api::new();
    let large = format!("\"{}\"", "x".repeat(100 << 10));
    let (one, two) = (api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await);
    assert_eq!(api.take("w1").await, one);
    api.done("w1", &one, &format!(r#"{{"status": "IN_PROGRESS", "output": {large}}}"#)).await;
    for item in [&*large, "2", &large] {
        api.post(&format!("job-stream/w1/{one}"), format!(r#"{{"output": {item}}}"#)).await;
    }
    let requests = api.get("requests").await.json();
    let listed: Vec<_> =
        requests["requests"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&&*one) && listed.contains(&&*two));
    let lengths = |value: &serde_json::Value| value.as_str().map(str::len);
    let running = requests["requests"].as_array().unwrap().iter().find(|job| job["id"] == *one).unwrap();
    assert_eq!((lengths(&running["output"]), &running["status"]), (Some(100 << 10), &"IN_PROGRESS".into()));
    let stream = api.get(&format!("stream/{one}")).await.json();
    let items: Vec<_> = stream["stream"].as_array().unwrap().iter().map(|item| lengths(&item["output"])).collect();
    assert_eq!((items, &stream["status"]), (vec![Some(100 << 10), None, Some(100 << 10)], &"IN_PROGRESS".into()));
    assert_eq!(
        api.get(&format!("stream/{two}?wait=1000")).await.json(),
        serde_json::json!({"status": "IN_QUEUE", "stream": []})
    );
}

#[tokio::test]
async fn idle_connections_keep_nobody_out_and_are_counted() {
    let limits = ServerLimits { max_connections: 32, ..ServerLimits::default() };
    let server = start_with(ServerConfig { limits, ..config() }).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let started = Instant::now();
    assert!(server.text("health").await.contains("inQueue"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let metrics = reqwest::get(format!("http://{}/metrics", server.address)).await.unwrap().text().await.unwrap();
    let value = |name: &str| -> f64 {
        let line =
            metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("runpod_endpoint_connections_refused_total{reason=\"evicted\"}") >= 268.0);
    assert!(value("runpod_endpoint_connections ") <= 32.0);
}

#[tokio::test]
async fn the_headers_of_a_request_are_limited_while_they_arrive() {
    let server = start().await;
    let begin = format!("GET /v2/ep/health HTTP/1.1\r\nHost: localhost\r\nX: {}", "y".repeat(380 << 10));
    let mut reply = Vec::new();
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    // The server may close before everything is sent.
    let _ = socket.write_all(begin.as_bytes()).await;
    let _ = timeout(SOON, socket.read_to_end(&mut reply)).await.expect("the connection must end");
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431 "), "{reply}");
}

#[tokio::test]
async fn request_bodies_share_a_limit_of_memory() {
    let server = start_with(ServerConfig { request_memory: 4 << 20, ..config() }).await;
    let head = "POST /v2/ep/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n";
    let half = "x".repeat(3 << 20);
    let _held = server.open(&format!("{head}{half}")).await;
    let refused = async {
        loop {
            let body = format!(r#"{{"input": "{half}"}}"#);
            let reply = reqwest::Client::new().post(server.url("run")).body(body).send().await.unwrap();
            if reply.status() == 503 {
                return reply;
            }
        }
    };
    let refused = timeout(SOON, refused).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    submit(&server, "1").await;
}

#[tokio::test]
async fn hosts_that_are_unclear_are_not_answered_to_without_keys() {
    let server = start().await;
    for (target, hosts, status) in [
        ("/v2/ep/health", &b"Host: evil\xff.example"[..], "403"),
        ("/v2/ep/health", &b"Host: localhost\r\nHost: evil.example"[..], "403"),
        ("/v2/ep/health", &b"Host: evil@localhost"[..], "403"),
        ("http://evil.example/v2/ep/health", &b"Host: localhost"[..], "403"),
        ("http://localhost/v2/ep/health", &b"Host: localhost"[..], "200"),
        ("/v2/ep/health", &b"Host: localhost.:8000"[..], "200"),
        ("/v2/ep/health", &b"X-No-Host: 1"[..], "200"),
    ] {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        let head = [format!("GET {target} HTTP/1.1\r\n").as_bytes(), hosts, b"\r\nConnection: close\r\n\r\n"].concat();
        socket.write_all(&head).await.unwrap();
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).await.unwrap();
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {reply}", String::from_utf8_lossy(&head));
    }
}

#[tokio::test(start_paused = true)]
async fn ids_in_a_path_have_an_alphabet_and_a_length() {
    let api = Api::new();
    let long = "x".repeat(129);
    for path in [
        "status/..%2F..%2Fetc",
        "status/%1b%5b2J",
        "status/a%0aINFO",
        "job-take/%E2%80%AEw",
        "job-done/w/a%5Cb",
        "ping/a%20b",
        &format!("status/{long}"),
        &format!("job-take/{long}"),
    ] {
        let request = axum::http::Request::builder().uri(format!("/v2/ep/{path}"));
        let request = request.method(if path.starts_with("job-done") { "POST" } else { "GET" });
        let reply = api.send(request.body(axum::body::Body::from("{}")).unwrap()).await;
        assert_eq!(
            (reply.status.as_u16(), reply.field("error").contains("not valid")),
            (400, true),
            "{path}: {}",
            reply.text
        );
    }
    let other = axum::http::Request::get("/v2/%1bep/health").body(axum::body::Body::empty()).unwrap();
    assert_eq!(api.send(other).await.status, 400);
    assert_eq!(api.get("status/no-such-job").await.status, 404);
    assert_eq!(api.get(&format!("ping/{}&job_id=", &long[1..])).await.status, 200, "parameters do not count");
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

#[tokio::test]
async fn the_server_unpacks_requests_and_lets_named_pages_ask() {
    let origins = runpod_endpoint::api::Origins::new(["https://app.example.org".parse().unwrap()]);
    let options = Arc::new(runpod_endpoint::api::Options { origins, ..Default::default() });
    let running = start_with(ServerConfig { options, ..config() }).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, br#"{"input": 1}"#).unwrap();
    let request = reqwest::Client::new().post(running.url("run")).header("content-encoding", "gzip");
    let request = request.header("origin", "https://app.example.org").body(packed.finish().unwrap());
    let reply = request.send().await.unwrap();
    assert_eq!(
        (reply.status(), &reply.headers()["access-control-allow-origin"]),
        (reqwest::StatusCode::OK, &"https://app.example.org".parse().unwrap())
    );
    running.shutdown.cancel();
}
