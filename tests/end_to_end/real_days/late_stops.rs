//! A stop that comes late, and the job that comes again under the same id.

use end_to_end_tests::{FakeQueue, Reply, Worker, WorkerOptions, binary, eventually, until};
use serde_json::json;

async fn start(flags: &[&str]) -> (FakeQueue, Worker) {
    let queue = FakeQueue::start();
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::flags(flags));
    worker.ready().await;
    (queue, worker)
}

/// Delivers a stop and waits until the worker has read it: the next stop poll follows only then.
async fn stop(queue: &FakeQueue, id: &str) {
    eventually("the stop poll", || async { queue.seen("job-stop").pop() }).await;
    let before = queue.seen("job-stop").len();
    queue.stop(Reply::json(json!({"jobsToStop": [id]}).to_string()));
    until("the stop to be read", || queue.seen("job-stop").len() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_follows_a_stop_for_its_finished_run_is_run_and_answered() {
    let (queue, _worker) = start(&[]).await;
    queue.job("again", &json!({"do": "error"}));
    queue.result("again").await;
    until("the next poll to be open", || queue.seen("job-take").last().is_some_and(|take| take.status.is_none())).await;
    stop(&queue, "again").await;
    queue.job("again", &json!({"do": "ok"}));
    until("the answer to the retry", || queue.results("again").len() == 2).await;
    assert_eq!(queue.results("again")[1]["output"]["job"], "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_two_late_stops_is_run_and_answered() {
    let (queue, _worker) = start(&["--prefetch", "1"]).await;
    for run in 1..=3 {
        queue.job("again", &json!({"do": "error"}));
        until("its answer", || queue.results("again").len() == run).await;
        stop(&queue, "again").await;
        stop(&queue, "again").await;
    }
}
