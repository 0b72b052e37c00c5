//! All parts that talk to the queue, through an outage: a real server on the loopback that drops every connection for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::any;
use parking_lot::Mutex;
use runpod_worker_core::{Event, FinalResult, JobId, OutboxItem, PollAnswer, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::base::{Identity, Secret, UrlTemplate};
use crate::heartbeat::{self, HeartbeatConfig, Pulse};
use crate::outbox::{self, OutboxLimits};

/// Long enough for pauses to grow far beyond two seconds, if they could.
const AWAY: Duration = Duration::from_secs(12);

/// What a queue that is away does with a request.
#[derive(Clone, Copy, Default, PartialEq)]
enum Away {
    /// The connection breaks.
    #[default]
    Dropped,
    /// A proxy before the queue answers 503.
    Unavailable,
}

/// A queue that can be away.
#[derive(Clone, Default)]
struct Server {
    how: Away,
    away: Arc<AtomicBool>,
    /// Attempts while it was away.
    attempts: Arc<AtomicU32>,
    /// The first request of each kind since it is back.
    first: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Server {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = self.clone();
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = inner.local_addr().unwrap();
        let handler = self.clone();
        let app = Router::new().fallback(any(move |request: Request| handler.clone().answer(request)));
        tokio::spawn(async move { axum::serve(inner, app).await });
        tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { return };
                if server.how == Away::Dropped && server.away.load(Ordering::SeqCst) {
                    server.attempts.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let (away, how) = (Arc::clone(&server.away), server.how);
                tokio::spawn(async move {
                    let mut upstream = tokio::net::TcpStream::connect(target).await.unwrap();
                    let cut = async {
                        while how != Away::Dropped || !away.load(Ordering::SeqCst) {
                            sleep(Duration::from_millis(20)).await;
                        }
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                        () = cut => {}
                    }
                });
            }
        });
        address
    }

    fn note(&self, kind: &str) {
        let mut first = self.first.lock();
        if first.iter().all(|(known, _)| known != kind) {
            first.push((kind.to_owned(), Instant::now()));
        }
    }

    async fn answer(self, request: Request) -> axum::response::Response {
        let kind = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let is_away = || self.away.load(Ordering::SeqCst);
        if is_away() {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        self.note(&kind);
        match kind.as_str() {
            // Polls are held, as a queue without jobs does it.
            "job-take" | "job-stop" => {
                for _ in 0..150 {
                    if is_away() {
                        return StatusCode::SERVICE_UNAVAILABLE.into_response();
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                StatusCode::NO_CONTENT.into_response()
            }
            _ => ([(header::CONTENT_TYPE, "application/json")], "{}").into_response(),
        }
    }
}

#[tokio::test]
async fn every_part_is_back_within_two_seconds_of_an_outage_and_all_together_try_once_a_second() {
    outage(Away::Dropped).await;
}

#[tokio::test]
async fn a_proxy_that_answers_503_for_the_queue_is_an_outage_too() {
    outage(Away::Unavailable).await;
}

async fn outage(how: Away) {
    let server = Server { how, ..Server::default() };
    let address = server.start().await;
    let template = |path: &str| UrlTemplate::new(&format!("http://{address}/{path}"), "w1", None).unwrap();
    let queue = Arc::new(
        HttpQueue::new(&QueueConfig {
            extensions: Extensions::default(),
            take: template("job-take/$ID"),
            done: template("job-done/$RUNPOD_POD_ID/$ID"),
            stream: None,
            key: Secret::new("hunter2"),
            worker_id: "w1".into(),
            tenant: None,
        })
        .unwrap(),
    );
    let (events, mut inbox) = mpsc::channel(100);
    let shutdown = CancellationToken::new();
    let (_snapshots, snapshot) = watch::channel(Snapshot::default());
    let ping = HeartbeatConfig {
        extensions: Extensions::default(),
        url: template("ping/$RUNPOD_POD_ID"),
        worker_id: "w1".into(),
        interval: Duration::from_secs(10),
        key: Secret::new("hunter2"),
    };
    let outage = JobSource::outage(&*queue);
    let _heartbeat = heartbeat::spawn(Some(ping), snapshot, Pulse::default(), Arc::default(), outage.clone()).unwrap();
    stop::spawn(Arc::clone(&queue), events.clone(), shutdown.clone());
    let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
    let outbox = outbox::spawn(Arc::clone(&queue), identity, OutboxLimits::default(), events.clone());
    let polls = poller::spawn(Arc::clone(&queue), events);
    // As the core: a poll follows another at once, except after a failure, where it waits for its pause or for `PollAgain`.
    let dispatcher = tokio::spawn(async move {
        polls.poll(1, false);
        let mut paused = None;
        loop {
            let event = tokio::select! {
                event = inbox.recv() => event,
                () = sleep(paused.unwrap_or_default()), if paused.is_some() => Some(Event::PollAgain),
            };
            match event {
                Some(Event::Poll(PollAnswer::Failed { retry_after, .. })) => paused = Some(retry_after),
                Some(Event::Poll(_)) => polls.poll(1, false),
                Some(Event::PollAgain) if paused.take().is_some() => polls.poll(1, false),
                Some(_) => {}
                None => return,
            }
        }
    });
    sleep(Duration::from_secs(1)).await;

    server.away.store(true, Ordering::SeqCst);
    // Results of the outage: more than there are parts.
    for job in ["a", "b", "c", "d", "e"] {
        let result = FinalResult { result: Ok("1".into()), streamed: false, stop_pod: false, cost: None };
        outbox.send(JobId::from(job), OutboxItem::Final(result));
    }
    sleep(AWAY).await;
    assert!(outage.is_on());
    let attempts = server.attempts.load(Ordering::SeqCst);
    // The first attempt of each result, and about one a second after that.
    assert!((6..=24).contains(&attempts), "{attempts} attempts in {AWAY:?}");

    server.first.lock().clear();
    let back = Instant::now();
    server.away.store(false, Ordering::SeqCst);
    let all = async {
        while server.first.lock().len() < 4 || outbox.stats().lanes > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), all).await.expect("every part comes back");
    for (kind, at) in server.first.lock().iter() {
        let waited = *at - back;
        println!("{kind} after {waited:?}");
        assert!(waited < Duration::from_millis(2500), "{kind} came {waited:?} after the queue was back");
    }
    println!("all results after {:?}, {attempts} attempts while away", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
    shutdown.cancel();
    dispatcher.abort();
}
