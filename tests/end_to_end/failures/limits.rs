//! Jobs that must end and do not want to: deadlines and cancellation.

use end_to_end_tests::{FakeQueue, Reply, Stack, Worker, WorkerOptions, binary, eventually};
use serde_json::{Value, json};

use super::error;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_its_deadline_is_killed_and_times_out() {
    let options = WorkerOptions::flags(&["--job-timeout", "1s", "--cancel-grace", "500ms"]);
    let stack = Stack::start("puppet-handler", options).await;
    let before = stack.worker.handler_pid().await;
    let late = error(&stack.client.run(json!({"do": "spin"})).await);
    assert_eq!(late["error_type"], "timeout");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert_ne!(stack.worker.handler_pid().await, before);
    assert_eq!(stack.worker.health().await["worker"]["jobs"]["timedOut"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_stops_when_asked_at_its_deadline_keeps_its_process() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--job-timeout", "1s"])).await;
    let before = stack.worker.handler_pid().await;
    let late = error(&stack.client.run(json!({"do": "check_cancel"})).await);
    assert_eq!(late["error_type"], "timeout");
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert_eq!(stack.worker.handler_pid().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_over_its_ttl_is_stopped() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--cancel-grace", "200ms"])).await;
    // The shortest that the platform allows.
    let policy = json!({"ttl": 10_000});
    let id = stack.client.submit_request(json!({"input": {"do": "ignore_cancel"}, "policy": policy})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    eventually("the stop to arrive", || async {
        (stack.worker.health().await["worker"]["jobs"]["cancelled"] == 1).then_some(())
    })
    .await;
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_within_the_grace_beats_the_deadline() {
    let options = WorkerOptions::flags(&["--job-timeout", "1s", "--cancel-grace", "30s"]);
    let stack = Stack::start("puppet-handler", options).await;
    let job = stack.client.run(json!({"do": "sleep_ms", "ms": 1500})).await;
    assert_eq!(job["status"], "COMPLETED", "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_beside_an_overdue_one_may_finish() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::flags(&["--slots", "2", "--cancel-grace", "100ms"]);
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    let overdue = json!({"id": "overdue", "input": {"do": "ignore_cancel"}, "policy": {"executionTimeout": 300}});
    let neighbour = json!({"id": "neighbour", "input": {"do": "sleep_ms", "ms": 2000}});
    queue.take(Reply::json(Value::from(vec![overdue, neighbour]).to_string()));
    assert_eq!(queue.result("neighbour").await["output"]["attempt"], 1);
    assert_eq!(error(&queue.result("overdue").await)["error_type"], "timeout");
    queue.job("next", &json!({"do": "ok"}));
    assert_eq!(queue.result("next").await["output"]["ok"], true);
    assert_eq!(worker.health().await["jobs"]["retried"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_that_ignores_it_is_killed() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--cancel-grace", "500ms"])).await;
    let before = stack.worker.handler_pid().await;
    let idle = cpu_ticks(before);
    let id = stack.client.submit(json!({"do": "spin"})).await;
    // A job that is cancelled before it has begun needs no killing.
    eventually("the job to spin", || async { (cpu_ticks(before) > idle + 10).then_some(()) }).await;
    stack.client.cancel(&id).await;
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
    assert_ne!(stack.worker.handler_pid().await, before);
    assert_eq!(stack.client.status(&id).await["status"], "CANCELLED");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_posted_for_a_stopped_job() {
    let queue = FakeQueue::start();
    let options = WorkerOptions::flags(&["--cancel-grace", "200ms"]);
    let _worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options);
    for (id, what) in [("yields", "check_cancel"), ("ignores", "ignore_cancel")] {
        queue.job(id, &json!({ "do": what }));
        queue.sees("ping", "the job is held", |seen| seen.query.contains(id)).await;
        queue.stop(Reply::json(json!({"jobsToStop": [id]}).to_string()));
        let next = format!("after-{id}");
        queue.job(&next, &json!({"do": "ok"}));
        queue.result(&next).await;
        assert!(!queue.seen("job-done").iter().any(|seen| seen.job.as_deref() == Some(id)), "{id} was posted");
    }
}

/// Processor time that a process has used, in clock ticks.
fn cpu_ticks(pid: Option<i32>) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.unwrap())).unwrap_or_default();
    // The fields after the name, which stands in parentheses: user time is the twelfth of them.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}
