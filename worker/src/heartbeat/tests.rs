//! The heartbeat against a real server on the loopback.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::Request;
use axum::http::StatusCode as Status;
use axum::response::AppendHeaders;
use axum::routing::any;
use axum::{Router, serve};
use runpod_handler_protocol::Manifest;
use runpod_worker_core::JobId;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout_at;

use super::limits::MAX_REASON;
use super::*;
use crate::base::VERSION;

/// One ping as the server saw it: query and `Authorization`.
type Ping = (String, String);

/// Answers the n-th ping with the n-th status, then with 200.
async fn server(statuses: &'static [u16]) -> (String, mpsc::Receiver<Ping>) {
    server_with(statuses, "").await
}

/// The same, with this announcement of extensions unless it is empty.
async fn server_with(statuses: &'static [u16], announcement: &'static str) -> (String, mpsc::Receiver<Ping>) {
    let (sender, pings) = mpsc::channel(100);
    let count = Arc::new(AtomicU64::new(0));
    let app = Router::new().fallback(any(move |request: Request| {
        let status = statuses.get(usize::try_from(count.fetch_add(1, Ordering::SeqCst)).unwrap()).copied();
        let key = request.headers().get("authorization").map(|key| key.to_str().unwrap().to_owned());
        let query = request.uri().path_and_query().unwrap().to_string();
        sender.try_send((query, key.unwrap_or_default())).unwrap();
        let announced = (!announcement.is_empty()).then_some([("x-runpod-endpoint-extensions", announcement)]);
        async move { (Status::from_u16(status.unwrap_or(200)).unwrap(), announced.map(AppendHeaders), ()) }
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { serve(listener, app).await });
    (address, pings)
}

fn config(address: &str, interval: Duration) -> HeartbeatConfig {
    HeartbeatConfig {
        url: UrlTemplate::new(&format!("http://{address}/ping/$RUNPOD_POD_ID?gpu=x"), "w1", None).unwrap(),
        worker_id: "w1".into(),
        interval,
        key: Secret::new("hunter2"),
        extensions: Extensions::default(),
    }
}

async fn next(pings: &mut mpsc::Receiver<Ping>) -> Ping {
    timeout(Duration::from_secs(20), pings.recv()).await.expect("a ping in time").unwrap()
}

fn holding(ids: &[&str]) -> Snapshot {
    Snapshot { held: ids.iter().map(|id| JobId::from(*id)).collect(), ..Snapshot::default() }
}

#[tokio::test]
async fn pings_start_at_once_and_list_what_is_held() {
    let (address, mut pings) = server(&[]).await;
    let (sender, snapshot) = watch::channel(Snapshot::default());
    let interval = Duration::from_millis(50);
    let heartbeat =
        spawn(Some(config(&address, interval)), snapshot, Pulse::default(), Arc::default(), Outage::default()).unwrap();
    let idle = format!("/ping/w1?gpu=x&runpod_version={VERSION}");
    assert_eq!(next(&mut pings).await, (idle.clone(), "hunter2".to_owned()));

    sender.send(holding(&["a", "b/1"])).unwrap();
    let busy = format!("/ping/w1?gpu=x&job_id=a%2Cb%2F1&runpod_version={VERSION}");
    while next(&mut pings).await.0 != busy {}
    sender.send(Snapshot::default()).unwrap();
    while next(&mut pings).await.0 != idle {}
    while heartbeat.monitor().stats().sent < 3 {
        next(&mut pings).await;
    }
    let stats = heartbeat.monitor().stats();
    assert!(stats.failures == 0 && stats.since_last_ok.is_some(), "{stats:?}");
    heartbeat.stop().await;
    while pings.try_recv().is_ok() {}
    let later = tokio::time::Instant::now() + interval * 5;
    assert!(timeout_at(later, pings.recv()).await.is_err(), "no ping after the stop");
}

#[tokio::test]
async fn the_model_is_named_only_to_a_queue_that_announces_the_extension() {
    let about = json!({"name": "my model", "version": "1.2.3", "idempotent": false, "streams": false});
    let schemas = json!({"input_schema": true, "output_schema": true});
    let parts = [about, schemas].into_iter().flat_map(|part| part.as_object().unwrap().clone());
    let manifest: Manifest = serde_json::from_value(parts.collect()).unwrap();
    let known = Snapshot { manifest: Some(Arc::new(manifest)), ..Snapshot::default() };
    let plain = format!("/ping/w1?gpu=x&runpod_version={VERSION}");
    let named = format!("{plain}&model=my%20model&model_version=1.2.3");
    for (announcement, snapshot, second) in [
        ("", known.clone(), &plain),
        ("hand-back, goodbye, instance", known.clone(), &plain),
        ("instance, model", Snapshot::default(), &plain),
        ("instance, model", known.clone(), &named),
    ] {
        let (address, mut pings) = server_with(&[], announcement).await;
        let (_sender, snapshot) = watch::channel(snapshot);
        let config = config(&address, Duration::from_millis(20));
        let heartbeat = spawn(Some(config), snapshot, Pulse::default(), Arc::default(), Outage::default()).unwrap();
        assert_eq!(next(&mut pings).await.0, plain, "nothing is announced yet");
        assert_eq!(next(&mut pings).await.0, *second, "after {announcement:?}");
        heartbeat.stop().await;
    }
}

#[tokio::test]
async fn jobs_that_do_not_fit_into_one_request_are_named_in_the_next_ones_at_once() {
    let (address, mut pings) = server(&[]).await;
    let ids: Vec<String> = (0..2000).map(|n| format!("{n:04}-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-u1")).collect();
    let held = holding(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let (_sender, snapshot) = watch::channel(held);
    let config = config(&address, Duration::from_secs(600));
    let heartbeat = spawn(Some(config), snapshot, Pulse::default(), Arc::default(), Outage::default()).unwrap();
    let mut named = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let (query, _) = next(&mut pings).await;
        let list = query.split("job_id=").nth(1).unwrap().split('&').next().unwrap();
        named.extend(list.split("%2C").map(str::to_owned));
    }
    assert!(named.iter().eq(ids.iter()), "{} of {} jobs", named.len(), ids.len());
    heartbeat.stop().await;
}

#[tokio::test]
async fn only_429_and_5xx_make_a_ping_retry() {
    // The interval is longer than the test: what comes in time is a retry.
    let (address, mut pings) = server(&[429, 503]).await;
    let (_sender, snapshot) = watch::channel(Snapshot::default());
    let heartbeat = spawn(
        Some(config(&address, Duration::from_secs(600))),
        snapshot,
        Pulse::default(),
        Arc::default(),
        Outage::default(),
    )
    .unwrap();
    for _ in 0..3 {
        next(&mut pings).await;
    }
    heartbeat.stop().await;

    let (address, mut pings) = server(&[404]).await;
    let (_sender, snapshot) = watch::channel(Snapshot::default());
    let heartbeat = spawn(
        Some(config(&address, Duration::from_millis(50))),
        snapshot,
        Pulse::default(),
        Arc::default(),
        Outage::default(),
    )
    .unwrap();
    while heartbeat.monitor().stats().sent == 0 {
        next(&mut pings).await;
    }
    assert_eq!((heartbeat.monitor().stats().failures, heartbeat.monitor().stats().failures_in_a_row), (1, 0));
    heartbeat.stop().await;
}

#[tokio::test]
async fn an_unhealthy_report_is_sent_before_the_end() {
    let (address, mut pings) = server(&[]).await;
    let (_sender, snapshot) = watch::channel(holding(&["j"]));
    let heartbeat = spawn(
        Some(config(&address, Duration::from_secs(600))),
        snapshot,
        Pulse::default(),
        Arc::default(),
        Outage::default(),
    )
    .unwrap();
    heartbeat.report_unhealthy("crash_loop", &format!("5 crashes & more {}", "ä".repeat(400)));
    heartbeat.stop().await;
    let mut seen = Vec::new();
    while let Ok((query, key)) = pings.try_recv() {
        assert_eq!(key, "hunter2");
        seen.push(query);
    }
    let report = seen.iter().find(|query| query.contains("status=unhealthy")).expect("the report");
    let reason = format!("5%20crashes%20%26%20more%20{}", "%C3%A4".repeat(MAX_REASON - "5 crashes & more ".len()));
    let expected = format!("/ping/w1?gpu=x&status=unhealthy&check=crash_loop&reason={reason}&runpod_version={VERSION}");
    assert_eq!(*report, expected);
}

#[tokio::test]
async fn an_unhealthy_report_without_an_answer_takes_two_seconds() {
    // The kernel accepts connections, and nothing reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let begin = Instant::now();
    report_once(&config(&address, Duration::from_secs(600)), "memory", "too little").await;
    let took = begin.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn after_an_unhealthy_report_pings_go_on_only_for_jobs_that_are_held() {
    let (address, mut pings) = server(&[]).await;
    let (sender, snapshot) = watch::channel(holding(&["j"]));
    let interval = Duration::from_millis(20);
    let heartbeat =
        spawn(Some(config(&address, interval)), snapshot, Pulse::default(), Arc::default(), Outage::default()).unwrap();
    heartbeat.report_unhealthy("crash_loop", "5 crashes");
    while !next(&mut pings).await.0.contains("status=unhealthy") {}
    assert!(next(&mut pings).await.0.contains("job_id=j"));
    sender.send(Snapshot::default()).unwrap();
    let later = tokio::time::Instant::now() + interval * 20;
    while let Ok(ping) = timeout_at(later, pings.recv()).await {
        assert!(ping.unwrap().0.contains("job_id=j"), "a ping that withdraws the report");
    }
    heartbeat.stop().await;
}

#[tokio::test]
async fn pings_go_on_and_failures_are_counted_while_the_queue_is_away() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (_sender, snapshot) = watch::channel(Snapshot::default());
    let heartbeat = spawn(
        Some(config(&address, Duration::from_millis(20))),
        snapshot,
        Pulse::default(),
        Arc::default(),
        Outage::default(),
    )
    .unwrap();
    let many = async {
        while heartbeat.monitor().stats().failures_in_a_row < 3 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), many).await.expect("failures are counted");
    assert_eq!(heartbeat.monitor().stats().since_last_ok, None);
    heartbeat.stop().await;
}

#[tokio::test]
async fn without_a_url_nothing_is_sent_and_it_stops() {
    let (_sender, snapshot) = watch::channel(Snapshot::default());
    let heartbeat = spawn(None, snapshot, Pulse::default(), Arc::default(), Outage::default()).unwrap();
    heartbeat.report_unhealthy("load", "no weights");
    heartbeat.stop().await;
}
