//! What handlers print, and ids and texts that would act on a terminal, forge a log line or change a URL.

use std::time::{Duration, Instant};

use end_to_end_tests::{FakeQueue, Reply, Stack, Worker, WorkerOptions, binary, until};
use serde_json::{Value, json};

/// Control characters, bidirectional overrides and line separators of Unicode.
fn is_active(character: char) -> bool {
    let is_bidi = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (character.is_control() && character != '\n') || is_bidi || matches!(character, '\u{2028}' | '\u{2029}')
}

fn assert_passive(what: &str, text: &str) {
    let line = text.lines().find(|line| line.chars().any(is_active));
    assert_eq!(line.map(|line| line.escape_debug().to_string()), None, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_progress_bar_is_seen_while_it_grows_and_once_a_second_at_most() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let steps: Vec<String> = (0..60).map(|percent| format!("\rdownloading {percent} %")).collect();
    let begin = Instant::now();
    let id = stack.client.submit(json!({"do": "print", "texts": steps, "pause_ms": 100})).await;
    until("the bar to be seen", || stack.worker.daemon.log().contains("downloading ")).await;
    assert_ne!(stack.client.status(&id).await["status"], "COMPLETED", "it was seen only when the job was over");
    stack.client.finished(&id).await;
    let seconds = begin.elapsed().as_secs() as usize;
    until("the last state", || stack.worker.daemon.log().contains("downloading 59 %")).await;
    let lines = stack.worker.daemon.log().matches("downloading ").count();
    assert!((2..=seconds + 3).contains(&lines), "{lines} lines in {seconds} s:\n{}", stack.worker.daemon.log());
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_ends_with_carriage_return_and_newline_is_one_line() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let texts = ["one windows line\r", "\nanother\r\n"];
    stack.client.run(json!({"do": "print", "texts": texts, "pause_ms": 50})).await;
    until("both lines", || stack.worker.daemon.log().contains("another")).await;
    let log = stack.worker.daemon.log();
    assert_eq!((log.matches("one windows line").count(), log.matches("another").count()), (1, 1), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_prints_cannot_act_on_a_terminal_or_forge_a_line() {
    for format in ["text", "json"] {
        let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--log-format", format])).await;
        let texts = [
            "\u{1b}[2J\u{1b}]0;title\u{7} escape\n",
            "\u{9b}31m c1\n",
            "\u{202e}desrever\n",
            "separator\u{2028}2026-01-01T00:00:00Z ERROR forged\n",
            "a\u{8}\u{8}b\u{0}c\n",
            "the end\n",
        ];
        stack.client.run(json!({"do": "print", "texts": texts, "pause_ms": 0})).await;
        until("the last line", || stack.worker.daemon.log().contains("the end")).await;
        assert_passive(format, &stack.worker.daemon.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_cannot_change_where_a_result_is_posted_or_forge_a_log_line() {
    let queue = FakeQueue::start();
    let mut worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let long = "l".repeat(5000);
    let ids =
        ["..", ".", "a/../../b", "a\\b", "x\nERROR forged", "\u{1b}[31mred", "a?b#c", "%2e%2e", "", "\u{202e}z", &long];
    for id in ids {
        queue.take(Reply::json(json!({"id": id, "input": {"do": "ok"}}).to_string()));
    }
    queue.job("last", &json!({"do": "ok"}));
    queue.result("last").await;
    for post in queue.seen("job-done") {
        assert_eq!(post.worker.as_deref(), Some("worker-1"), "{post:?}");
        assert!(post.job.as_deref().is_some_and(|job| !["", ".", ".."].contains(&job)), "{post:?}");
    }
    let known = ["job-take", "job-take-batch", "job-stop", "job-done", "job-stream", "ping"];
    assert!(queue.routes().iter().all(|route| known.contains(&route.as_str())), "{:?}", queue.routes());
    assert_passive("the log", &worker.daemon.log());
    assert!(!worker.daemon.log().lines().any(|line| line.starts_with("ERROR forged")), "{}", worker.daemon.log());
    assert!(worker.daemon.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_a_path_of_the_endpoint_cannot_forge_a_log_line() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    for id in ["%1b%5b31mred", "x%0aERROR%20forged", "%e2%80%aez", &"l".repeat(4000)] {
        let answer: Value = stack.client.get(&format!("/status/{id}")).await;
        assert!(answer["status"].is_u64() || answer["error"].is_string(), "{answer}");
        let worker = format!("{}/test/job-take/{id}?gpu=LOCAL&job_in_progress=1", stack.endpoint.base);
        // What a worker of such a name is answered does not matter here.
        let _ = tokio::time::timeout(Duration::from_secs(1), reqwest::get(worker)).await;
        let _ = reqwest::get(format!("{}/test/ping/{id}?gpu=LOCAL", stack.endpoint.base)).await;
    }
    assert_passive("the log", &stack.endpoint.daemon.log());
    assert!(!stack.endpoint.daemon.log().lines().any(|line| line.starts_with("ERROR forged")));
}
