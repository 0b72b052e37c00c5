//! What the official worker, version 1.12.0, does on the bad days that ours is tested with. `docs/reliability.md` sets the two
//! side by side; these tests keep that table honest when the pinned version changes.

use std::time::{Duration, Instant};

use end_to_end_tests::{FakeQueue, Reply, eventually};
use rustix::process::Signal;
use serde_json::json;

use crate::official::{self, Python};

fn start() -> (FakeQueue, end_to_end_tests::Daemon) {
    let queue = FakeQueue::start();
    let worker = official::worker(Python::V1, queue.worker_env(), "misbehaving");
    (queue, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_costs_the_result() {
    let (mut queue, mut worker) = start();
    queue.job("lost", &json!({"sleep": 3}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("lost")).await;
    queue.take_down().await;
    eventually("it to give the result up", || async { worker.log().contains("Finished.").then_some(()) }).await;
    queue.bring_up();
    queue.job("next", &json!({}));
    queue.result("next").await;
    assert!(queue.results("lost").is_empty(), "it was delivered after all");
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_status_costs_the_result() {
    let (queue, _worker) = start();
    queue.done(Reply::status(429));
    queue.job("lost", &json!({}));
    queue.sees("job-done", "the refused post", |seen| seen.status == Some(429)).await;
    queue.job("next", &json!({}));
    queue.result("next").await;
    assert!(queue.results("lost").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segfault_of_the_handler_is_the_end_of_the_worker() {
    let (queue, mut worker) = start();
    queue.job("deadly", &json!({"segv": true}));
    let status = worker.wait(Duration::from_secs(60));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(11));
    assert!(queue.seen("job-done").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_job_cannot_be_cancelled() {
    let (queue, _worker) = start();
    queue.job("blocking", &json!({"sleep": 6}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("blocking")).await;
    let begin = Instant::now();
    queue.stop(Reply::json(r#"{"jobsToStop":["blocking"]}"#));
    queue.job("next", &json!({}));
    queue.result("next").await;
    assert!(begin.elapsed() > Duration::from_secs(2), "the blocking job ran to its end all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_arrives_after_sigterm_is_taken_and_forgotten() {
    let (queue, mut worker) = start();
    eventually("a take", || async { queue.seen("job-take").pop() }).await;
    queue.sees("job-stop", "the stop channel", |_| true).await;
    worker.signal(Signal::TERM);
    eventually("the signal to be noticed", || async { worker.log().contains("Kill worker").then_some(()) }).await;
    // Its loop that runs jobs looks once a second and has ended by then; the one that takes them waits for this answer.
    queue.take(Reply::job("forgotten", &json!({})).after(Duration::from_secs(3)));
    queue.stop(Reply::status(204).after(Duration::from_secs(4)));
    assert_eq!(worker.wait(Duration::from_secs(60)).code(), Some(0));
    assert!(queue.seen("job-done").is_empty(), "it was run after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_a_job_without_id_is_the_end_of_the_worker() {
    let (queue, mut worker) = start();
    queue.take(Reply::json(r#"[{"input":{}}]"#));
    assert_eq!(worker.wait(Duration::from_secs(60)).code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_answered_with_more_requests() {
    let (queue, _worker) = start();
    (0..100).for_each(|_| queue.take(Reply::status(500)));
    eventually("a hundred takes", || async { (queue.seen("job-take").len() >= 100).then_some(()) }).await;
    let takes = queue.seen("job-take");
    assert!(takes[99].at - takes[0].at < Duration::from_secs(20), "there are pauses");
}
