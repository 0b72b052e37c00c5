//! Results that are not accepted, and what becomes of them.

use end_to_end_tests::{Reply, WorkerOptions, eventually};
use serde_json::json;

use super::{start, still_works};

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_repeated_until_it_is_accepted() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    for code in [500, 503, 429] {
        queue.done(Reply::status(code));
    }
    queue.job("patient", &json!({"do": "ok"}));
    assert_eq!(queue.result("patient").await["output"]["job"], "patient");
    let posts = queue.seen("job-done");
    assert_eq!(posts.len(), 4);
    assert!(posts.iter().all(|post| post.body == posts[0].body), "the same result each time");
    assert_eq!(posts[0].headers["x-request-id"], "patient");
    eventually("the job to be closed", || async {
        (worker.health().await["worker"]["jobs"]["delivering"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_does_not_wait_for_the_network_and_the_job_stays_in_the_heartbeat() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    queue.done(Reply::never());
    queue.job("stuck", &json!({"do": "ok"}));
    eventually("the post that hangs", || async { queue.seen("job-done").pop() }).await;
    still_works(&queue, "next").await;
    let before = queue.seen("ping").len();
    eventually("three more pings", || async { (queue.seen("ping").len() >= before + 3).then_some(()) }).await;
    assert!(queue.seen("ping").iter().skip(before).all(|ping| ping.query.contains("job_id=stuck")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_survives_a_connection_that_breaks_while_it_is_posted() {
    let (mut queue, worker) = start(WorkerOptions::default()).await;
    queue.job("lonely", &json!({"do": "sleep_ms", "ms": 3000}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("lonely")).await;
    queue.take_down().await;
    eventually("a failed attempt to post", || async {
        (worker.health().await["worker"]["outbox"]["retries"].as_u64() > Some(0)).then_some(())
    })
    .await;
    queue.bring_up();
    assert_eq!(queue.result("lonely").await["output"]["job"], "lonely");
    assert_eq!(queue.results("lonely").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_refused_is_replaced_by_the_reason() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    for code in [400, 413] {
        let id = format!("refused-{code}");
        queue.done(Reply::status(code));
        queue.job(&id, &json!({"do": "big_output", "bytes": 100_000}));
        let result = queue.result(&id).await;
        let error = result["error"].as_str().unwrap();
        assert!(error.contains("delivery") && error.contains(&code.to_string()), "{result}");
        assert!(error.len() < 2_000, "{} bytes", error.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_answered_with_404_is_not_posted_again() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    queue.done(Reply::status(404));
    queue.job("forgotten", &json!({"do": "ok"}));
    queue.sees("job-done", "the refused post", |seen| seen.status == Some(404)).await;
    still_works(&queue, "next").await;
    eventually("it to leave the heartbeat", || async {
        (worker.health().await["worker"]["jobs"]["delivering"] == 0).then_some(())
    })
    .await;
    assert_eq!(queue.seen("job-done").iter().filter(|seen| seen.job.as_deref() == Some("forgotten")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_one_by_one_and_before_the_result() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    queue.job("stream", &json!({"do": "stream", "n": 20}));
    queue.result("stream").await;
    let chunks: Vec<String> = queue.seen("job-stream").into_iter().map(|seen| seen.body).collect();
    let expected: Vec<String> = (1..=20).map(|n| json!({"output": n}).to_string()).collect();
    assert_eq!(chunks, expected);
    assert_eq!(queue.seen("job-done").pop().unwrap().query, "gpu=LOCAL&isStream=true");
}
