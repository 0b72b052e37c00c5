//! Handlers that do not come up. No job is taken by a worker that cannot run it.

use std::time::Duration;

use end_to_end_tests::{FakeQueue, Worker, WorkerOptions, binary};
use rustix::process::Signal;
use serde_json::json;

/// A worker whose handler starts so, and its queue with one job waiting.
fn start(plan: &str, options: WorkerOptions) -> (FakeQueue, Worker) {
    let queue = FakeQueue::start();
    queue.job("waiting", &json!({"do": "ok"}));
    let options = options.env("PUPPET_START", plan);
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    (queue, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_loads_makes_the_worker_unhealthy_and_end() {
    for (plan, reason) in [
        ("load_fail", "does not load, as asked"),
        ("load_panic", "panics while loading"),
        ("load_segv", "SIGSEGV"),
        ("load_hang", "no progress"),
    ] {
        let (queue, mut worker) = start(plan, WorkerOptions::flags(&["--load-stall-timeout", "1s"]));
        let report = queue.sees("ping", "the unhealthy report", |seen| seen.query.contains("status=unhealthy")).await;
        assert!(report.query.contains("check=handler_start"), "{plan}: {}", report.query);
        assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(1), "{plan}");
        assert!(worker.daemon.log().contains(reason), "{plan}:\n{}", worker.daemon.log());
        assert!(queue.seen("job-take").is_empty(), "{plan}: a job was asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_fails_is_followed_by_one_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let once = folder.path().join("once");
    let options = WorkerOptions::default().env("PUPPET_ONCE", &once.to_string_lossy());
    let (queue, mut worker) = start("load_segv", options);
    assert_eq!(queue.result("waiting").await["output"]["ok"], true);
    assert!(worker.daemon.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_loads_slowly_is_waited_for_while_it_makes_progress() {
    let options = WorkerOptions::flags(&["--load-stall-timeout", "1s"]).env("PUPPET_LOAD_MS", "3000");
    let (queue, _worker) = start("load_slow", options);
    assert_eq!(queue.result("waiting").await["output"]["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_loading_ends_the_worker_without_a_job() {
    let (queue, mut worker) = start("load_hang", WorkerOptions::default());
    queue.sees("ping", "any", |_| true).await;
    assert_eq!(worker.health().await["workers"]["initializing"], 1);
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(20)).code(), Some(0));
    assert!(queue.seen("job-take").is_empty());
}
