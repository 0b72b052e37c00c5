//! Queues that cannot be reached at all.

use std::time::{Duration, Instant};

use end_to_end_tests::{FakeQueue, Worker, WorkerOptions, binary, eventually, worker_env};
use rustix::process::Signal;
use serde_json::json;

use super::still_works;

fn polls(metrics: &str, outcome: &str) -> u64 {
    let prefix = format!("runpod_worker_polls_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_at_most_once_a_second_and_survived() {
    let mut queue = FakeQueue::down();
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let begin = Instant::now();
    eventually("four attempts", || async { (polls(&worker.metrics().await, "failed") >= 4).then_some(()) }).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(3), "four attempts within {took:?}");
    assert!(worker.daemon.log().contains("the queue cannot be reached"), "{}", worker.daemon.log());

    queue.bring_up();
    still_works(&queue, "first").await;
    let takes = queue.seen("job-take");
    still_works(&queue, "second").await;
    let next = &queue.seen("job-take")[takes.len()];
    assert!(next.at - takes[takes.len() - 1].at < Duration::from_secs(1), "the first good poll ends the pauses");
    let says = worker.daemon.log().matches("the queue cannot be reached").count();
    // One line for each part that uses the network, however often it tries.
    assert!(says <= 3, "{says} lines:\n{}", worker.daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_goes_away_and_comes_back_finds_the_worker_waiting() {
    let (mut queue, worker) = super::start(WorkerOptions::default()).await;
    queue.job("during", &json!({"do": "sleep_ms", "ms": 1500}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("during")).await;
    queue.take_down().await;
    eventually("a failed ping", || async {
        (worker.health().await["worker"]["lastPing"]["failuresInARow"].as_u64() > Some(0)).then_some(())
    })
    .await;
    queue.bring_up();
    assert_eq!(queue.result("during").await["output"]["attempt"], 1);
    still_works(&queue, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_does_not_resolve_is_logged_and_does_not_delay_the_shutdown() {
    let env = worker_env("http://queue.invalid/v2/test", "worker-1");
    let mut worker = Worker::start_with(env, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    eventually("two attempts", || async { (polls(&worker.metrics().await, "failed") >= 2).then_some(()) }).await;
    let log = worker.daemon.log();
    let line = log.lines().find(|line| line.contains("the queue cannot be reached")).unwrap_or_default();
    assert!(line.contains("dns") && line.contains("RUNPOD_WEBHOOK_"), "{log}");
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
}
