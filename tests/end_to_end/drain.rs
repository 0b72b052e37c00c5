//! SIGTERM at every moment of a job's life. A job is finished, or it is handed back unreported; it is never lost.

use std::time::{Duration, Instant};

use end_to_end_tests::{FakeQueue, Reply, Stack, Worker, WorkerOptions, binary, eventually};
use rustix::process::Signal;
use serde_json::json;

/// What a drain without any work may take on a loaded machine.
const PROMPT: Duration = Duration::from_secs(10);

async fn start(flags: &[&str]) -> (FakeQueue, Worker) {
    let queue = FakeQueue::start();
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::flags(flags));
    worker.ready().await;
    eventually("the first take", || async { queue.seen("job-take").pop() }).await;
    (queue, worker)
}

/// Whether any message about this job ever left the worker.
fn mentioned(queue: &FakeQueue, job: &str) -> bool {
    queue.seen("job-done").iter().any(|seen| seen.job.as_deref() == Some(job))
        || queue.seen("ping").iter().any(|seen| seen.query.contains(job))
}

fn term(worker: &mut Worker, limit: Duration) -> Duration {
    let begin = Instant::now();
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(limit).code(), Some(0), "{}", worker.daemon.log());
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_ends_at_once_on_sigterm() {
    let (queue, mut worker) = start(&[]).await;
    term(&mut worker, PROMPT);
    assert_eq!(queue.seen("job-take").len(), 1, "no new poll after the signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_in_the_queue_at_sigterm_stays_there() {
    let mut stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let running = stack.client.submit(json!({"do": "sleep_ms", "ms": 1500})).await;
    stack.client.reaches(&running, "IN_PROGRESS").await;
    let waiting = stack.client.submit(json!({"do": "ok"})).await;
    term(&mut stack.worker, PROMPT);
    assert_eq!(stack.client.status(&running).await["status"], "COMPLETED");
    assert_eq!(stack.client.status(&waiting).await["status"], "IN_QUEUE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_an_answer_that_is_arriving_at_sigterm_is_run() {
    let (queue, mut worker) = start(&[]).await;
    let job = json!({"id": "arriving", "input": {"do": "ok"}}).to_string();
    let pieces = Duration::from_millis(30);
    queue.take(Reply::json(job).slowly(4, pieces));
    queue.sees("job-take", "the answer has begun", |seen| seen.status == Some(200)).await;
    term(&mut worker, PROMPT);
    assert_eq!(queue.results("arriving").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_arrives_too_late_for_the_drain_is_neither_run_nor_reported() {
    let (queue, mut worker) = start(&[]).await;
    let job = json!({"id": "late", "input": {"do": "ok"}}).to_string();
    queue.take(Reply::json(job).slowly(1, Duration::from_secs(5)));
    queue.sees("job-take", "the answer has begun", |seen| seen.status == Some(200)).await;
    term(&mut worker, PROMPT);
    assert!(!mentioned(&queue, "late"), "it was claimed and then forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetched_job_is_run_before_the_worker_ends() {
    let (queue, mut worker) = start(&["--prefetch", "1"]).await;
    let jobs = json!([
        {"id": "running", "input": {"do": "sleep_ms", "ms": 3000}},
        {"id": "held", "input": {"do": "ok"}},
    ]);
    queue.take(Reply::json(jobs.to_string()));
    queue.sees("ping", "both are held", |ping| ping.query.contains("held") && ping.query.contains("running")).await;
    term(&mut worker, PROMPT);
    assert_eq!((queue.results("running").len(), queue.results("held").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_that_does_not_end_is_handed_back_within_the_bound() {
    for what in ["check_cancel", "ignore_cancel"] {
        let (queue, mut worker) = start(&["--drain-grace", "500ms", "--cancel-grace", "300ms"]).await;
        queue.job("endless", &json!({ "do": what }));
        queue.sees("ping", "the job is held", |ping| ping.query.contains("endless")).await;
        let took = term(&mut worker, PROMPT);
        assert!(took >= Duration::from_millis(500), "{what}: it had its time");
        assert!(queue.seen("job-done").is_empty(), "{what}: a result would be final");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_is_delivered_before_the_worker_ends() {
    let (queue, mut worker) = start(&[]).await;
    (0..2).for_each(|_| queue.done(Reply::status(503)));
    queue.job("finished", &json!({"do": "ok"}));
    queue.sees("job-done", "a first attempt", |seen| seen.status == Some(503)).await;
    term(&mut worker, Duration::from_secs(20));
    assert_eq!(queue.results("finished").len(), 1);
    let last = queue.seen("ping").pop().unwrap();
    let posted = queue.seen("job-done").pop().unwrap();
    assert!(last.at + Duration::from_secs(3) > posted.at, "the heartbeat went on until the result was delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_delivered_does_not_delay_the_shutdown_beyond_its_grace() {
    let (queue, mut worker) = start(&["--flush-grace", "1s"]).await;
    (0..9).for_each(|_| queue.done(Reply::never()));
    queue.job("undeliverable", &json!({"do": "ok"}));
    queue.sees("job-done", "the attempt that hangs", |_| true).await;
    let took = term(&mut worker, PROMPT);
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_waits_for_neither_a_job_nor_an_undelivered_result() {
    let (queue, mut worker) = start(&["--slots", "2"]).await;
    (0..9).for_each(|_| queue.done(Reply::never()));
    queue.job("undeliverable", &json!({"do": "ok"}));
    queue.sees("job-done", "the attempt that hangs", |_| true).await;
    queue.job("endless", &json!({"do": "spin"}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("endless")).await;
    worker.daemon.signal(Signal::TERM);
    eventually("the drain to begin", || async {
        (worker.health().await["worker"]["state"] == "draining").then_some(())
    })
    .await;
    term(&mut worker, PROMPT);
}
