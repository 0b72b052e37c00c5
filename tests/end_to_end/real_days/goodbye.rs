//! How a worker that has left looks on the endpoint: properly, or without a word.

use std::time::{Duration, Instant};

use end_to_end_tests::{Endpoint, Receiver};
use rustix::process::Signal;

use super::{END, workers};

/// The workers in a state, as the endpoint's metrics count them.
async fn counted(endpoint: &Endpoint, state: &str) -> f64 {
    let server = endpoint.base.trim_end_matches("/v2");
    let metrics = reqwest::get(format!("{server}/metrics")).await.unwrap().text().await.unwrap();
    let series = format!("runpod_endpoint_workers{{endpoint=\"test\",state=\"{state}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Longest time for a worker that said goodbye to be gone from the counters, with slack for a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_properly_is_gone_from_the_counters_at_once() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let mut worker = super::worker(&endpoint, "worker-1", &[]).await;
    client.get_when("/health", |health| health["workers"]["idle"] == 1).await;
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(END).code(), Some(0));
    let left = Instant::now();
    client.get_when("/health", |health| workers(health).is_empty()).await;
    assert!(left.elapsed() < AT_ONCE, "{:?} after it had left", left.elapsed());
    for state in ["lost", "unhealthy"] {
        assert_eq!(counted(&endpoint, state).await, 0.0, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_with_a_job_is_never_unhealthy() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let mut worker = super::worker(&endpoint, "worker-1", &["--drain-grace", "300ms"]).await;
    super::running(&client, &endpoint.folder().join("never")).await;
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(END).code(), Some(0));
    client.get_when("/health", |health| workers(health).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_vanishes_is_lost_and_never_unhealthy() {
    let endpoint = Endpoint::start(&["--lease", "5s"]).await;
    let client = endpoint.client();
    let mut worker = super::worker(&endpoint, "worker-1", &[]).await;
    client.get_when("/health", |health| health["workers"]["idle"] == 1).await;
    worker.daemon.signal(Signal::KILL);
    worker.daemon.wait(END);
    // It is noticed when its heartbeats have been missing for long enough.
    let health = client
        .get_when("/health", |health| {
            assert_eq!(health["workers"]["unhealthy"], 0, "{health}");
            health["workers"]["idle"] == 0
        })
        .await;
    assert_eq!(workers(&health), [""; 0], "{health}");
    assert_eq!(counted(&endpoint, "lost").await, 1.0);
    assert_eq!(counted(&endpoint, "unhealthy").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_in_fires_no_alert_and_a_worker_that_vanishes_fires_one() {
    let receiver = Receiver::start().await;
    let endpoint = Endpoint::start(&["--lease", "5s", "--alert-webhook", &receiver.url]).await;
    let client = endpoint.client();
    let mut leaving = super::worker(&endpoint, "worker-1", &["--drain-grace", "300ms"]).await;
    let mut vanishing = super::worker(&endpoint, "worker-2", &[]).await;
    client.get_when("/health", |health| health["workers"]["idle"] == 2).await;
    leaving.daemon.signal(Signal::TERM);
    leaving.daemon.wait(END);
    vanishing.daemon.signal(Signal::KILL);
    vanishing.daemon.wait(END);
    // Both have been silent for the same time when the second is noticed.
    let alert = receiver.gets("", "an alert", |_| true).await;
    let text = alert.to_string();
    assert!(text.contains("worker_lost"), "{text}");
    assert_eq!(counted(&endpoint, "lost").await, 1.0);
    assert_eq!(receiver.posted().len(), 1, "{:?}", receiver.posted());
}
