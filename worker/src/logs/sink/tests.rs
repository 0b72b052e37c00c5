use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Server {
    seen: mpsc::Sender<(HeaderMap, String)>,
    answers: Arc<Mutex<VecDeque<u16>>>,
    /// One permit for each answer.
    gate: Arc<Semaphore>,
}

/// A receiver that answers as scripted and then with 200.
struct Receiver {
    url: String,
    seen: mpsc::Receiver<(HeaderMap, String)>,
    gate: Arc<Semaphore>,
}

impl Receiver {
    async fn start(answers: &[u16], open: bool) -> Self {
        let (sender, seen) = mpsc::channel(64);
        let gate = Arc::new(Semaphore::new(if open { Semaphore::MAX_PERMITS } else { 0 }));
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect()));
        let server = Server { seen: sender, answers, gate: Arc::clone(&gate) };
        let router = Router::new().route("/logs", post(receive)).with_state(server);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/logs", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen, gate }
    }

    async fn next(&mut self) -> (HeaderMap, String) {
        timeout(PATIENCE, self.seen.recv()).await.unwrap().unwrap()
    }

    fn sink(&self, token: &str, buffer_bytes: usize) -> Sink {
        let url = UrlTemplate::new(&self.url, "w-1", None).unwrap();
        Sink::start(&SinkConfig { url, token: Secret::new(token), buffer_bytes }, "w-1").unwrap()
    }
}

async fn receive(State(server): State<Server>, headers: HeaderMap, body: String) -> StatusCode {
    server.seen.send((headers, body)).await.unwrap();
    server.gate.acquire().await.unwrap().forget();
    let answer = server.answers.lock().pop_front();
    StatusCode::from_u16(answer.unwrap_or(200)).unwrap()
}

#[tokio::test]
async fn lines_arrive_in_order_with_the_token() {
    let mut receiver = Receiver::start(&[], true).await;
    let sink = receiver.sink("sink-token", 1 << 20);
    (0..100).for_each(|number| sink.queue().push(format!("{number}\n")));
    let (headers, body) = receiver.next().await;
    assert_eq!(body, (0..100).map(|number| format!("{number}\n")).collect::<String>());
    assert_eq!(
        (&headers["authorization"], &headers["content-type"]),
        (&"Bearer sink-token".parse().unwrap(), &"application/x-ndjson".parse().unwrap())
    );
    sink.queue().push("last\n".to_owned());
    sink.close().await;
    let (_, body) = receiver.next().await;
    assert_eq!(body, "last\n", "the end waits for what is still to be sent");
}

#[tokio::test]
async fn a_receiver_that_recovers_has_missed_nothing() {
    let mut receiver = Receiver::start(&[503, 429], true).await;
    let sink = receiver.sink("", 1 << 20);
    sink.queue().push("first\n".to_owned());
    let (headers, body) = receiver.next().await;
    assert_eq!((body.as_str(), headers.get("authorization")), ("first\n", None));
    sink.queue().push("second\n".to_owned());
    assert_eq!(receiver.next().await.1, "first\n");
    assert_eq!(receiver.next().await.1, "first\n");
    assert_eq!(receiver.next().await.1, "second\n");
}

#[tokio::test]
async fn what_is_refused_for_good_does_not_hold_up_the_rest() {
    let mut receiver = Receiver::start(&[400], true).await;
    let sink = receiver.sink("", 1 << 20);
    sink.queue().push("first\n".to_owned());
    assert_eq!(receiver.next().await.1, "first\n");
    sink.queue().push("second\n".to_owned());
    assert_eq!(receiver.next().await.1, "second\n");
}

#[tokio::test]
async fn a_slow_receiver_costs_the_oldest_lines_and_they_are_counted() {
    let mut receiver = Receiver::start(&[], false).await;
    let sink = receiver.sink("", 1000);
    sink.queue().push("first\n".to_owned());
    assert_eq!(receiver.next().await.1, "first\n");
    for number in 0..1000 {
        sink.queue().push(format!("{number:09}\n"));
        assert!(sink.queue().lock().bytes <= 1000);
    }
    receiver.gate.add_permits(10);
    let (_, body) = receiver.next().await;
    let mut lines = body.lines();
    let note: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(note["message"], "Dropped 900 lines: the log sink was too slow.");
    assert_eq!((note["level"].as_str(), note["worker"].as_str()), (Some("WARN"), Some("w-1")));
    let rest: Vec<_> = lines.collect();
    assert_eq!((rest.len(), rest[0], rest[99]), (100, "000000900", "000000999"));
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_receiver_that_hangs() {
    let mut receiver = Receiver::start(&[], false).await;
    let sink = receiver.sink("", 1000);
    sink.queue().push("first\n".to_owned());
    receiver.next().await;
    timeout(PATIENCE, sink.close()).await.unwrap();
}
