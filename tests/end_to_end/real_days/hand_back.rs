//! A worker that leaves gives its unfinished jobs back to our endpoint at once.

use std::time::{Duration, Instant};

use end_to_end_tests::{Endpoint, FakeQueue, Worker, WorkerOptions, binary};
use rustix::process::Signal;
use serde_json::json;

use super::{END, running};

/// The grace of a rolling restart is shorter than the job.
const SHORT_GRACE: &[&str] = &["--drain-grace", "300ms", "--cancel-grace", "300ms"];

/// Longest time from the end of the worker until the job is in the queue again: one second, and slack for a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Ends the worker and waits until the job is back in the queue.
async fn roll(worker: &mut Worker, endpoint: &Endpoint, id: &str) {
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(END).code(), Some(0), "{}", worker.daemon.log());
    let left = Instant::now();
    let job = endpoint.client().reaches(id, "IN_QUEUE").await;
    assert!(left.elapsed() < AT_ONCE, "it came back {:?} after its worker had left", left.elapsed());
    assert!(job["retries"].as_u64().unwrap_or(0) == 0, "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rolling_restarts_cost_a_long_job_no_retry() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let done = endpoint.folder().join("done");
    let mut first = super::worker(&endpoint, "worker-1", SHORT_GRACE).await;
    let id = running(&client, &done).await;
    for next in ["worker-2", "worker-3", "worker-4"] {
        roll(&mut first, &endpoint, &id).await;
        first = super::worker(&endpoint, next, SHORT_GRACE).await;
        client.get_when(&format!("/status/{id}"), |job| job["workerId"] == next).await;
    }
    std::fs::write(&done, "").unwrap();
    let job = client.finished(&id).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
    let jobs = client.health().await["jobs"].clone();
    assert_eq!((&jobs["retried"], &jobs["failed"]), (&json!(0), &json!(0)), "{jobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_handed_back_is_ahead_of_those_that_came_after_it() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let done = endpoint.folder().join("done");
    let mut worker = super::worker(&endpoint, "worker-1", SHORT_GRACE).await;
    let first = running(&client, &done).await;
    let second = client.submit(json!({"do": "wait_for", "path": done})).await;
    roll(&mut worker, &endpoint, &first).await;
    let _next = super::worker(&endpoint, "worker-2", SHORT_GRACE).await;
    client.reaches(&first, "IN_PROGRESS").await;
    assert_eq!(client.status(&second).await["status"], "IN_QUEUE");
    std::fs::write(&done, "").unwrap();
    assert_eq!(client.finished(&second).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_still_spends_the_retry() {
    let endpoint = Endpoint::start(&["--lease", "5s"]).await;
    let client = endpoint.client();
    let done = endpoint.folder().join("done");
    let mut worker = super::worker(&endpoint, "worker-1", &[]).await;
    let id = running(&client, &done).await;
    worker.daemon.signal(Signal::KILL);
    worker.daemon.wait(END);
    let _next = super::worker(&endpoint, "worker-2", &[]).await;
    let job = client.get_when(&format!("/status/{id}"), |job| job["workerId"] == "worker-2").await;
    assert_eq!(job["retries"], 1, "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_did_not_announce_it_gets_no_request_that_it_does_not_know() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::flags(SHORT_GRACE);
    let mut worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    worker.ready().await;
    queue.job("endless", &json!({"do": "check_cancel"}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("endless")).await;
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(END).code(), Some(0), "{}", worker.daemon.log());
    let known = ["job-take", "job-take-batch", "job-stop", "job-done", "job-stream", "ping"];
    let strange: Vec<String> = queue.routes().into_iter().filter(|route| !known.contains(&route.as_str())).collect();
    assert_eq!(strange, [""; 0]);
}
