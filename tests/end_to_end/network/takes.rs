//! Every answer to job-take, and what the worker makes of it.

use std::time::{Duration, Instant};

use end_to_end_tests::{FakeQueue, Reply, WorkerOptions, eventually};
use serde_json::{Value, json};

use super::{start, still_works};

/// Times between the takes from the `from`-th on.
fn gaps(queue: &FakeQueue, from: usize) -> Vec<Duration> {
    let takes: Vec<Instant> = queue.seen("job-take").into_iter().skip(from).map(|seen| seen.at).collect();
    takes.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

async fn takes(queue: &FakeQueue, count: usize) {
    eventually(&format!("{count} takes"), || async { (queue.seen("job-take").len() >= count).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_job_is_accepted() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    let job = |id: &str| json!({"id": id, "input": {"do": "ok"}, "webhook": null, "unknown": [1]}).to_string();
    queue.take(Reply::json(job("plain")));
    queue.take(Reply::text("application/json; charset=utf-8", job("charset")));
    queue.take(Reply::json(format!("[{}]", job("list-of-one"))));
    queue.take(Reply::json(format!("\u{feff}{}", job("byte-order-mark"))));
    queue.take(Reply::json(job("slow")).slowly(20, Duration::from_millis(50)));
    for id in ["plain", "charset", "list-of-one", "byte-order-mark", "slow"] {
        let result = queue.result(id).await;
        assert_eq!(result["output"]["job"], id);
        assert_eq!(queue.results(id).len(), 1, "{id}");
    }
    let take = queue.seen("job-take").remove(0);
    assert_eq!(take.query, "gpu=LOCAL&job_in_progress=0");
    assert_eq!(take.headers["authorization"], "test-worker-key");
    assert_eq!(worker.health().await["jobs"]["completed"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_null_or_missing_reaches_the_handler() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    queue.take(Reply::json(r#"{"id":"null","input":null}"#));
    queue.take(Reply::json(r#"{"id":"missing"}"#));
    for id in ["null", "missing"] {
        let text = queue.result(id).await["error"].as_str().unwrap().to_owned();
        assert!(text.contains("validation"), "{id}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_job_is_followed_by_the_next_poll_at_once() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    let hold = Duration::from_millis(100);
    let none = [
        Reply::status(204),
        Reply::status(400),
        Reply::json("null"),
        Reply::json("[]"),
        Reply::json("17"),
        Reply::json("\"text\""),
        Reply::json("true"),
        Reply::json(""),
    ];
    let count = none.len();
    none.into_iter().for_each(|reply| queue.take(reply.after(hold)));
    takes(&queue, count + 1).await;
    // None of the pauses after an error is as short.
    let slow: Vec<Duration> = gaps(&queue, 0).into_iter().filter(|gap| *gap > Duration::from_millis(450)).collect();
    assert!(slow.len() < 3, "{slow:?}");
    still_works(&queue, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_understood_slow_the_poll_down() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    for (number, reply) in [
        Reply::json("{}"),
        Reply::json(r#"{"input":{}}"#),
        Reply::text("text/html", "<html>who are you?</html>"),
        Reply::json("{\"half"),
        Reply::json("\u{0}\u{1}\u{2}"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = queue.seen("job-take").len();
        queue.take(reply);
        takes(&queue, before + 1).await;
        let pause = gaps(&queue, before - 1)[0];
        assert!(pause > Duration::from_millis(400), "answer {number}: asked again after {pause:?}");
        // A good answer ends the growing of the pauses.
        still_works(&queue, &format!("after-{number}")).await;
    }
    let metrics = worker.metrics().await;
    assert!(metrics.contains("runpod_worker_polls_total{outcome=\"failed\"} 5"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_answer_fails_the_jobs_it_names_instead_of_losing_them() {
    let (queue, _worker) = start(WorkerOptions::flags(&["--slots", "4"])).await;
    queue.take(Reply::json(r#"{"id":"truncated-text","input":{"do":"#));
    queue.take(Reply::text("text/plain", r#"{"id":"wrong-media-type","input":{"do":"ok"}}"#));
    queue.take(Reply::json(r#"{"id":4711,"input":{"do":"ok"}}"#));
    for id in ["truncated-text", "wrong-media-type", "4711"] {
        let result = queue.result(id).await;
        assert!(result["error"].as_str().unwrap().contains("protocol"), "{id}: {result}");
    }
    queue.take(Reply::json(
        r#"[{"id":"good-1","input":{"do":"ok"}},{"input":1},7,null,{"id":"good-2","input":{"do":"ok"}}]"#,
    ));
    for id in ["good-1", "good-2"] {
        assert_eq!(queue.result(id).await["output"]["job"], id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_starts_nothing_and_the_poll_goes_on() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    queue.take(Reply::json(r#"{"id":"cut","input":{"do":"ok"}}"#).cut());
    still_works(&queue, "after").await;
    // The queue still has it: its arrival was not confirmed.
    assert!(!queue.seen("ping").iter().any(|ping| ping.query.contains("cut")));
    assert!(queue.results("cut").is_empty());
    assert_eq!(worker.health().await["jobs"]["failed"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_pauses_the_poll_for_five_seconds_and_is_shown() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    takes(&queue, 1).await;
    queue.take(Reply::status(429));
    eventually("the worker to be throttled", || async {
        (worker.health().await["workers"]["throttled"] == 1).then_some(())
    })
    .await;
    takes(&queue, 2).await;
    assert!(gaps(&queue, 0)[0] >= Duration::from_secs(5));
    still_works(&queue, "after").await;
    let health = worker.health().await;
    assert_eq!((&health["workers"]["throttled"], &health["workers"]["idle"]), (&json!(0), &json!(1)), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_slow_the_poll_down_until_the_next_good_answer() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    takes(&queue, 1).await;
    for code in [401, 403, 404, 500] {
        queue.take(Reply::status(code));
    }
    takes(&queue, 5).await;
    let gaps = gaps(&queue, 0);
    let total: Duration = gaps.iter().sum();
    assert!(total >= Duration::from_secs(4), "four errors cost at least four seconds: {gaps:?}");
    still_works(&queue, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_delays_the_next_poll() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    takes(&queue, 1).await;
    queue.take(Reply::status(503).header("retry-after", "3"));
    takes(&queue, 2).await;
    assert!(gaps(&queue, 0)[0] >= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_with_the_key_on_the_same_host() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    let elsewhere = format!("{}/job-take/elsewhere", queue.base());
    queue.take(Reply::status(307).header("location", &elsewhere));
    queue.job("moved", &json!({"do": "ok"}));
    assert_eq!(queue.result("moved").await["output"]["job"], "moved");
    let takes = queue.seen("job-take");
    assert_eq!(takes[1].headers["authorization"], "test-worker-key");
    assert_eq!(takes[1].at.duration_since(takes[0].at).as_secs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_does_not_get_the_key_of_a_request_that_is_sent_on_to_it() {
    let (queue, _worker) = start(WorkerOptions::default()).await;
    let other = FakeQueue::start();
    let moved = |path: &str| Reply::status(307).header("location", &format!("{}/{path}", other.base()));
    other.job("moved", &json!({"do": "ok"}));
    queue.take(moved("job-take/w1"));
    queue.stop(moved("job-stop/w1"));
    queue.ping(moved("ping/w1"));
    queue.done(moved("job-done/w1/moved"));
    assert_eq!(other.result("moved").await["output"]["job"], "moved");
    for route in ["job-take", "job-stop", "ping", "job-done"] {
        let seen = other.sees(route, "the request that was sent on", |_| true).await;
        assert!(!seen.headers.contains_key("authorization"), "{route}: {:?}", seen.headers);
        let first = queue.sees(route, "the request before", |_| true).await;
        assert_eq!(first.headers["authorization"], "test-worker-key", "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_twice_is_run_once() {
    let (queue, worker) = start(WorkerOptions::flags(&["--slots", "2"])).await;
    queue.job("twin", &json!({"do": "sleep_ms", "ms": 1000}));
    queue.sees("ping", "the job is held", |ping| ping.query.contains("twin")).await;
    queue.job("twin", &json!({"do": "sleep_ms", "ms": 1000}));
    let first = queue.result("twin").await;
    eventually("the result to be delivered", || async {
        let health = worker.health().await;
        let open = (&health["jobs"]["inProgress"], &health["worker"]["jobs"]["delivering"]);
        (open == (&json!(0), &json!(0))).then_some(())
    })
    .await;
    // And once more when it is over: answered from memory.
    queue.job("twin", &json!({"do": "sleep_ms", "ms": 600_000}));
    eventually("the second answer", || async { (queue.results("twin").len() >= 2).then_some(()) }).await;
    assert!(queue.results("twin").iter().all(|result| *result == first));
    assert_eq!(worker.health().await["jobs"]["completed"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_free_slots_use_the_batch_route() {
    let (queue, _worker) = start(WorkerOptions::flags(&["--slots", "3"])).await;
    let jobs: Vec<Value> = (0..3).map(|n| json!({"id": format!("j{n}"), "input": {"do": "ok"}})).collect();
    queue.take(Reply::json(Value::from(jobs).to_string()));
    for n in 0..3 {
        queue.result(&format!("j{n}")).await;
    }
    let take = queue.seen("job-take").remove(0);
    assert_eq!(
        (take.route.as_str(), take.query.as_str()),
        ("job-take-batch", "gpu=LOCAL&batch_size=3&job_in_progress=0")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a poll lasts 90 s; `make soak` runs it"]
async fn a_poll_without_an_answer_is_repeated_after_90_seconds() {
    let (queue, worker) = start(WorkerOptions::default()).await;
    takes(&queue, 1).await;
    queue.take(Reply::never());
    let begin = Instant::now();
    while queue.seen("job-take").len() < 2 && begin.elapsed() < Duration::from_secs(120) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let gap = gaps(&queue, 0)[0];
    assert!((90..95).contains(&gap.as_secs()), "{gap:?}");
    still_works(&queue, "after").await;
    let metrics = worker.metrics().await;
    assert!(!metrics.contains("outcome=\"failed\"") || metrics.contains("outcome=\"failed\"} 0"), "{metrics}");
}
