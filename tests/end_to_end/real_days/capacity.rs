//! Many slots, and queues that give more than was asked for.

use std::time::{Duration, Instant};

use end_to_end_tests::{Endpoint, FakeQueue, Reply, Worker, WorkerOptions, binary, until};
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::resident_mib;

/// Held by a test with so many threads that two of them would leave no processor time to any other.
static ALONE: Mutex<()> = Mutex::const_new(());

const JOBS: u64 = 3000;

/// Longest time for all of them on a loaded machine.
const ALL: Duration = Duration::from_secs(240);

async fn run_three_thousand_jobs(flags: &[&str]) {
    let _alone = ALONE.lock().await;
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let submissions = iter(0..JOBS).map(|_| client.submit(json!({"do": "ok"})));
    submissions.buffer_unordered(32).for_each(|_| std::future::ready(())).await;
    let mut worker = super::worker(&endpoint, "worker-1", flags).await;
    let begin = Instant::now();
    let jobs = loop {
        let jobs = client.health().await["jobs"].clone();
        if jobs["completed"] == JOBS || jobs["failed"] != 0 || !worker.daemon.is_running() {
            break jobs;
        }
        assert!(begin.elapsed() < ALL, "after {ALL:?}: {jobs}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(worker.daemon.is_running(), "{jobs}\n{}", worker.daemon.log());
    assert_eq!((&jobs["completed"], &jobs["failed"], &jobs["retried"]), (&json!(JOBS), &json!(0), &json!(0)));
    let processes = worker.health().await["worker"]["processes"].clone();
    for process in processes.as_array().unwrap() {
        assert_eq!(process["restarts"], 0, "a healthy handler was killed: {processes}");
    }
    assert_eq!(worker.daemon.log().matches("started as").count(), processes.as_array().unwrap().len(), "{processes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_slots_run_three_thousand_jobs_in_the_process_that_was_started() {
    run_three_thousand_jobs(&["--slots", "500"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slots_in_two_processes_run_three_thousand_jobs() {
    run_three_thousand_jobs(&["--slots", "500", "--processes", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_two_thousand_jobs_that_are_held_is_taken_away() {
    const HELD: u64 = 2000;
    let _alone = ALONE.lock().await;
    let endpoint = Endpoint::start(&["--lease", "5s"]).await;
    let client = endpoint.client();
    let gate = endpoint.folder().join("gate");
    let submissions = iter(0..HELD).map(|_| client.submit(json!({"do": "wait_for", "path": gate})));
    submissions.buffer_unordered(32).for_each(|_| std::future::ready(())).await;
    let _worker = super::worker(&endpoint, "worker-1", &["--slots", "1000", "--processes", "2"]).await;
    client.get_when("/health", |health| health["jobs"]["inProgress"] == HELD).await;
    // Longer than the lease.
    tokio::time::sleep(Duration::from_secs(7)).await;
    std::fs::write(&gate, "open").unwrap();
    let health = client.get_when("/health", |health| health["jobs"]["completed"] == HELD).await;
    assert_eq!((&health["jobs"]["failed"], &health["jobs"]["retried"]), (&json!(0), &json!(0)), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_far_too_many_jobs_is_refused_with_the_reason() {
    const SENT: usize = 100_000;
    let queue = FakeQueue::start();
    let mut worker = Worker::start_with(
        queue.worker_env(),
        &binary("puppet-handler"),
        WorkerOptions::flags(&["--log-level", "debug"]),
    );
    worker.ready().await;
    let before = resident_mib(worker.daemon.pid().as_raw_nonzero().get());
    let jobs: Vec<Value> =
        (0..SENT).map(|number| json!({"id": format!("job-{number}"), "input": {"do": "ok"}})).collect();
    queue.take(Reply::json(Value::from(jobs).to_string()));
    until("the warning", || worker.daemon.log().contains("The queue sent far more jobs than were asked for.")).await;
    assert!(worker.daemon.log().contains(&format!("sent={SENT}")), "{}", worker.daemon.log());
    queue.job("next", &json!({"do": "ok"}));
    assert_eq!(queue.result("next").await["output"]["job"], "next");
    assert!(worker.daemon.is_running());
    let after = resident_mib(worker.daemon.pid().as_raw_nonzero().get());
    assert!(after < before + 200, "{before} MiB before, {after} MiB after");
}
