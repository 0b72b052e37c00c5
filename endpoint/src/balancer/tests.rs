//! Requests through a front to workers that are servers of this test.

mod breaks;
mod nginx;
mod probes;
mod refusals;
mod sockets;

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use end_to_end_tests::{eventually, until};
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::workers::Registration;
use super::*;
use crate::api::KeySet;
use crate::secret::Secret;
use crate::store::{MemoryStore, Setup};

const SOON: Duration = Duration::from_secs(30);

/// A worker: says what it was sent.
#[derive(Clone)]
struct Worker {
    ping: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
    /// One permit for each piece of a stream.
    pieces: Arc<Semaphore>,
    address: SocketAddr,
}

impl Worker {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = Self {
            ping: Arc::new(AtomicU16::new(200)),
            requests: Arc::default(),
            pieces: Arc::new(Semaphore::new(0)),
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new()
            .route("/ping", get(async |State(worker): State<Self>| status(worker.ping.load(Ordering::Relaxed))))
            .fallback(any(answer))
            .with_state(worker.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        worker
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

async fn answer(State(worker): State<Worker>, mut request: Request) -> Response {
    worker.requests.fetch_add(1, Ordering::Relaxed);
    match request.uri().path() {
        "/fails" => return (StatusCode::IM_A_TEAPOT, "my own").into_response(),
        "/stream" => {
            let (sender, receiver) = mpsc::channel::<Result<String, String>>(1);
            tokio::spawn(async move {
                for number in 0..3 {
                    worker.pieces.acquire().await.unwrap().forget();
                    sender.send(Ok(format!("data: {number}\n\n"))).await.unwrap();
                }
            });
            let pieces =
                futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
            return Body::from_stream(pieces).into_response();
        }
        "/socket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut bytes = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    stream.write_all(&bytes[..read]).await.unwrap();
                }
                stream.write_all(b"closed").await.unwrap();
                stream.shutdown().await.unwrap();
            });
            return (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "websocket")])
                .into_response();
        }
        "/endless" => {
            let pieces = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 1_000_000]));
            return Body::from_stream(pieces).into_response();
        }
        path => {
            if let Some(bytes) = path.strip_prefix("/large/") {
                return vec![b'x'; bytes.parse().unwrap()].into_response();
            }
        }
    }
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let headers: Vec<_> = parts.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let seen = json!({
        "method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "bytes": bytes.len(),
        "body": String::from_utf8_lossy(&bytes[..bytes.len().min(100)]),
    });
    ([("x-own", "worker")], seen.to_string()).into_response()
}

/// A front with its workers.
struct Front {
    base: String,
    address: SocketAddr,
    balancer: Arc<Balancer>,
    registrations: Vec<Registration>,
    store: Arc<dyn Store>,
    drain: CancellationToken,
    counts: Arc<ServerCounts>,
    _stop: tokio_util::sync::DropGuard,
}

async fn front(workers: &[&Worker], concurrency: usize, keys: Keys) -> Front {
    limited_front(workers, concurrency, keys, ServerLimits::default()).await
}

async fn limited_front(workers: &[&Worker], concurrency: usize, keys: Keys, limits: ServerLimits) -> Front {
    let mut fronts = Fronts::new(limits, keys);
    let config = BalancerConfig { bind: "127.0.0.1:0".parse().unwrap(), concurrency, max_wait: Duration::from_secs(1) };
    fronts.bind("ep", &config).await.unwrap();
    let balancer = fronts.balancer("ep").unwrap();
    let address = fronts.addresses().next().unwrap().1;
    let counts = fronts.connections().remove(0);
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Setup::default()));
    fronts.start(&store, &drain, &stop);
    let registrations = workers
        .iter()
        .enumerate()
        .map(|(number, worker)| balancer.register(Arc::from(format!("w{number}")), worker.address));
    let registrations = registrations.collect();
    let base = format!("http://{address}");
    Front { base, address, balancer, registrations, store, drain, counts, _stop: stop.drop_guard() }
}

impl Front {
    fn ready(&self) -> usize {
        use crate::store::WorkerState::{Idle, Running};
        self.balancer.load().workers.iter().filter(|worker| matches!(worker.state, Idle | Running)).count()
    }

    async fn all_ready(&self) {
        until("all workers are ready", || self.ready() == self.registrations.len()).await;
    }

    /// Status, headers and body.
    async fn get(&self, path: &str, pin: &str) -> (u16, HeaderMap, String) {
        let request = Client::new().get(format!("{}{path}", self.base)).header("x-runpod-worker-id", pin);
        let reply = timeout(SOON, request.send()).await.unwrap().unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        (status, headers, reply.text().await.unwrap())
    }
}

fn detail(text: &str) -> String {
    let document: Value = serde_json::from_str(text).unwrap();
    document["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn method_path_query_and_body_reach_the_worker_byte_for_byte_and_the_key_does_not() {
    let worker = Worker::start().await;
    let keys = Keys { client: KeySet::new([Secret::from("k")]), ..Keys::default() };
    let front = front(&[&worker], 4, keys).await;
    front.all_ready().await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let request = "PUT /a/../b%20c//d?x=%2F&y HTTP/1.1\r\nHost: my.host\r\nAuthorization: Bearer k\r\nX-Own: 1\r\n\
                   Connection: close, x-hop\r\nX-Hop: 2\r\nContent-Length: 5\r\n\r\nhello";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    timeout(SOON, stream.read_to_string(&mut reply)).await.unwrap().unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("x-own: worker") && head.contains("x-runpod-worker-id: w0"),
        "{head}"
    );
    let seen: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&seen["method"], &seen["uri"], &seen["body"]),
        (&json!("PUT"), &json!("/a/../b%20c//d?x=%2F&y"), &json!("hello"))
    );
    let names: Vec<_> = seen["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert!(names.contains(&"x-own") && names.contains(&"host"), "{names:?}");
    assert!(!names.iter().any(|name| ["authorization", "x-hop", "transfer-encoding"].contains(name)), "{names:?}");

    for (key, text) in
        [(None, "no token provided"), (Some("Bearer x"), "invalid api key"), (Some("Bearer"), "invalid api key")]
    {
        let mut request = Client::new().get(&front.base);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let reply = request.send().await.unwrap();
        assert_eq!((reply.status().as_u16(), detail(&reply.text().await.unwrap())), (401, text.to_owned()), "{key:?}");
    }
    assert_eq!(worker.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn only_a_worker_whose_probe_answers_200_gets_requests() {
    let worker = Worker::start().await;
    worker.ping.store(204, Ordering::Relaxed);
    let front = front(&[&worker], 4, Keys::default()).await;
    let (status, headers, text) = front.get("/", "").await;
    assert_eq!(
        (status, &*detail(&text), headers.contains_key("retry-after")),
        (400, "timed out waiting for worker", true)
    );
    // A request that waits gets the worker once it is ready.
    let (reply, ()) = tokio::join!(front.get("/", ""), async {
        sleep(Duration::from_millis(100)).await;
        worker.ping.store(200, Ordering::Relaxed);
    });
    assert_eq!(reply.0, 200);
    worker.ping.store(500, Ordering::Relaxed);
    until("the worker is out", || front.ready() == 0).await;
    assert_eq!(front.get("/", "").await.0, 400);
    assert_eq!(worker.requests.load(Ordering::Relaxed), 1);
    // The worker's own errors pass through.
    worker.ping.store(200, Ordering::Relaxed);
    front.all_ready().await;
    let (status, _, text) = front.get("/fails", "").await;
    assert_eq!((status, &*text), (418, "my own"));
}

#[tokio::test]
async fn a_pin_is_kept_and_a_strict_one_to_nobody_is_refused() {
    let (one, two) = (Worker::start().await, Worker::start().await);
    let mut front = front(&[&one, &two], 1, Keys::default()).await;
    front.all_ready().await;
    for pin in ["w1", "strict w1", "strict-resume w1", "w1"] {
        assert_eq!(front.get("/", pin).await.1["x-runpod-worker-id"], "w1", "{pin}");
    }
    assert_eq!(front.get("/", "unknown").await.0, 200);
    let (status, _, text) = front.get("/", "strict unknown").await;
    assert_eq!((status, &*detail(&text)), (404, "affinity_worker_gone"));
    // The worker is full: one request waits in vain, another falls back.
    let held =
        Client::new().get(format!("{}/stream", front.base)).header("x-runpod-worker-id", "w1").send().await.unwrap();
    let (status, _, text) = front.get("/", "strict w1").await;
    assert_eq!((status, &*detail(&text)), (400, "timed out waiting for worker"));
    assert_eq!(front.get("/", "w1").await.1["x-runpod-worker-id"], "w0");
    drop(held);
    // One that leaves finishes what it has and gets nothing more.
    front.registrations[0].leave();
    assert_eq!(front.get("/", "strict w0").await.0, 404);
    front.registrations.remove(0);
    assert_eq!(front.balancer.load().workers.len(), 1);
}

#[tokio::test]
async fn a_request_that_waits_for_one_worker_is_no_reason_for_another_one() {
    let front = front(&[], 1, Keys::default()).await;
    front.balancer.name_workers(["w0", "w7"].map(str::to_owned).into_iter());
    let seen = async |waiting: usize, resumed: usize| {
        let balancer = &front.balancer;
        until("all wait", || balancer.figures().waiting == waiting + resumed).await;
        let load = balancer.load();
        assert_eq!((load.waiting, load.oldest.is_some(), balancer.resumed().len()), (waiting, waiting > 0, resumed));
    };
    tokio::join!(front.get("/", "strict-resume w7"), seen(0, 1));
    tokio::join!(front.get("/", "strict-resume w7"), front.get("/", ""), seen(1, 1));
}

#[tokio::test]
async fn thirty_megabytes_pass_and_one_byte_more_does_not_reach_the_worker() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 4, Keys::default()).await;
    front.all_ready().await;
    let post = async |bytes: usize| Client::new().post(&front.base).body(vec![b'x'; bytes]).send().await.unwrap();
    let passed = post(limits::BODY).await;
    let seen: Value = serde_json::from_str(&passed.text().await.unwrap()).unwrap();
    assert_eq!(seen["bytes"], limits::BODY);
    assert_eq!(post(limits::BODY + 1).await.status(), 413);
    assert_eq!(worker.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn events_arrive_piece_by_piece_and_the_place_is_free_after_the_last() {
    let worker = Worker::start().await;
    let front = front(&[&worker], 1, Keys::default()).await;
    front.all_ready().await;
    let reply = Client::new().get(format!("{}/stream", front.base)).send().await.unwrap();
    let mut pieces = reply.bytes_stream();
    for number in 0..3 {
        worker.pieces.add_permits(1);
        let piece = timeout(SOON, pieces.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(piece, format!("data: {number}\n\n"));
        // After the last one it may have ended.
        assert!(front.balancer.load().in_progress == 1 || number == 2);
    }
    assert!(timeout(SOON, pieces.next()).await.unwrap().is_none());
    until("the place is free", || front.balancer.load().in_progress == 0).await;
}
