//! What stands in the log, and that it also arrives elsewhere.

use std::time::Duration;

use axum::http::StatusCode;
use end_to_end_tests::{FakeQueue, Posted, Receiver, Reply, Worker, WorkerOptions, binary, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::readme::{block_of, built_repository, shell};

const GUIDE: &str = "docs/logs-and-traces.md";

/// The JSON lines of a log.
fn lines(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn start(queue: &FakeQueue, options: WorkerOptions) -> Worker {
    Worker::start_with(queue.worker_env(), &binary("puppet-handler"), options)
}

fn find<'a>(lines: &'a [Value], message: &str) -> Option<&'a Value> {
    lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains(message)))
}

fn on_the_platform() -> WorkerOptions {
    WorkerOptions::default().env("RUNPOD_ENDPOINT_ID", "ep-1")
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_job_have_the_platforms_form_and_say_what_the_platform_looks_for() {
    let queue = FakeQueue::start();
    let job = json!({
        "id": "j-1", "batchId": "b-9", "input": {"do": "events", "text": "from the handler"},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    });
    queue.take(Reply::json(job.to_string()));
    // Not accepted at first: it is not finished yet.
    queue.done(Reply::status(503));
    // A name that stops RunPod's own worker.
    let worker = start(&queue, on_the_platform().env("RUNPOD_DEBUG_LEVEL", "Warning").env("RUNPOD_LOG_LEVEL", "10"));
    queue.result("j-1").await;
    let log = eventually("the job to be finished", || async {
        Some(worker.daemon.log()).filter(|log| log.contains("Finished."))
    })
    .await;
    let lines = lines(&log);
    assert_eq!(lines.len(), log.lines().count(), "everything is JSON:\n{log}");
    assert!(log.lines().all(|line| line.starts_with("{\"requestId\":")), "{log}");

    let mine: Vec<&Value> = lines.iter().filter(|line| line["requestId"] == "j-1").collect();
    for line in &mine {
        assert!(line["message"].as_str().unwrap().starts_with("[batchId=b-9] "), "{line}");
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{line}");
    }
    let place = |message: &str| mine.iter().position(|line| line["message"] == format!("[batchId=b-9] {message}"));
    let (started, finished) = (place("Started.").unwrap(), place("Finished.").unwrap());
    assert_eq!((&mine[started]["level"], &mine[finished]["level"]), (&json!("INFO"), &json!("INFO")));
    assert_eq!(finished, mine.len() - 1);
    let refused = mine.iter().position(|line| line["message"].as_str().unwrap().contains("503")).unwrap_or(started);
    assert!(started <= refused && refused < finished);

    let shown = block_of(GUIDE, "json", "Started.");
    let real = log.lines().find(|line| line.contains("Started.")).unwrap();
    assert_eq!(shown.trim().replace(char::is_numeric, ""), real.replace(char::is_numeric, ""), "the line of the guide");

    for (level, number) in [("ERROR", " number=1"), ("WARN", ""), ("INFO", ""), ("DEBUG", "")] {
        let message = format!("[batchId=b-9] {} from the handler{number}", level.to_lowercase());
        let line = mine.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{message}\n{log}"));
        assert_eq!((&line["level"], &line["module"]), (&json!(level), &json!("puppet_handler")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_below_the_level_are_not_logged() {
    let queue = FakeQueue::start();
    queue.job("j-1", &json!({"do": "events", "text": "text"}));
    let worker = start(&queue, on_the_platform().env("RUNPOD_DEBUG_LEVEL", "warning"));
    queue.result("j-1").await;
    let log =
        eventually("the events", || async { Some(worker.daemon.log()).filter(|log| log.contains("warn text")) }).await;
    assert!(log.contains("error text") && !log.contains("info text") && !log.contains("Started."), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_limited_and_counted_at_the_rate_that_was_set() {
    for (rate, whole) in [("20", false), ("0", true)] {
        let queue = FakeQueue::start();
        queue.job("j-1", &json!({"do": "log", "lines": 2000, "bytes": 10}));
        let mut options = on_the_platform();
        options.flags = vec!["--log-rate".to_owned(), rate.to_owned()];
        let worker = start(&queue, options);
        queue.result("j-1").await;
        // Standard output and standard error are read side by side: either may end last.
        let wanted: &[&str] =
            if whole { &["stdout 2000 ", "stderr 2000 "] } else { &["lines: the handler logs too fast"] };
        let has_all = |log: &String| wanted.iter().all(|wanted| log.contains(wanted));
        let log = eventually("the lines", || async { Some(worker.daemon.log()).filter(has_all) }).await;
        let count = log.matches("stdout ").count();
        assert!(if whole { count >= 2000 } else { count < 1000 }, "{count} lines at rate {rate}");
        assert!(find(&lines(&log), "Started.").is_some());
    }
}

fn sink_options(receiver: &Receiver) -> WorkerOptions {
    on_the_platform()
        .env("RUNPOD_WORKER_LOG_SINK", &format!("{}/ingest?worker=$RUNPOD_POD_ID", receiver.url))
        .env("RUNPOD_WORKER_LOG_SINK_TOKEN", "token-of-the-sink")
}

fn received(posted: &[Posted]) -> Vec<Value> {
    posted.iter().flat_map(|posted| lines(&String::from_utf8_lossy(&posted.body))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_sink_gets_every_line_to_the_last() {
    let (queue, receiver) = (FakeQueue::start(), Receiver::start().await);
    let mut worker = start(&queue, sink_options(&receiver));
    queue.job("j-1", &json!({"do": "events", "text": "for the sink"}));
    queue.result("j-1").await;
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(30)).code(), Some(0));

    let posted = receiver.posted();
    assert_eq!(posted[0].path, "/ingest");
    assert_eq!(posted[0].headers["authorization"], "Bearer token-of-the-sink");
    let (here, there) = (lines(&worker.daemon.log()), received(&posted));
    let text = |lines: &[Value]| -> Vec<String> { lines.iter().map(|line| line["message"].to_string()).collect() };
    assert_eq!(text(&there), text(&here), "the same lines in the same order");
    assert_eq!(there.last().unwrap()["message"], "Stopped.");
    assert!(there.iter().all(|line| line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z'))));
    assert!(!worker.daemon.log().contains("token-of-the-sink"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_sink_that_fails_holds_up_no_job() {
    let (queue, receiver) = (FakeQueue::start(), Receiver::start().await);
    receiver.answer(StatusCode::SERVICE_UNAVAILABLE);
    let worker = start(&queue, sink_options(&receiver));
    receiver.finds("a batch", |posted| posted.first().cloned()).await;
    for number in 0..20 {
        queue.job(&format!("j-{number}"), &json!({"do": "ok"}));
        queue.result(&format!("j-{number}")).await;
    }
    let log = worker.daemon.log();
    assert_eq!(log.matches("The log sink takes no lines").count(), 1, "trouble is reported once:\n{log}");
    receiver.answer(StatusCode::OK);
    receiver
        .finds("the last job's line", |posted| {
            received(posted).into_iter().find(|line| line["requestId"] == "j-19" && line["message"] == "Finished.")
        })
        .await;
    eventually("the end of the trouble", || async {
        worker.daemon.log().contains("The log sink takes lines again").then_some(())
    })
    .await;
    assert!(received(&receiver.posted()).iter().all(|line| !line["message"].to_string().contains("log sink takes")));
}

#[test]
fn check_config_shows_the_settings_of_logs_and_traces_without_their_secrets() {
    let handler = binary("echo");
    let flags = [
        "run",
        "--check-config",
        "--log-sink=https://user:hunter22@logs.example.com/in?key=hunter22",
        "--log-sink-token=hunter22",
        "--otlp-endpoint=http://127.0.0.1:4318",
        "--log-rate=7",
        "--",
        &handler.to_string_lossy(),
    ];
    let output = end_to_end_tests::run_tool(&binary("runpod-worker").to_string_lossy(), &flags);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "log-sink               = https://logs.example.com/in (--log-sink)",
        "log-sink-token         = set (--log-sink-token)",
        "otlp-endpoint          = http://127.0.0.1:4318 (--otlp-endpoint)",
        "log-rate               = 7 (--log-rate)",
    ] {
        let (name, rest) = line.split_once(' ').unwrap();
        let shown = text
            .lines()
            .find(|shown| shown.split_whitespace().next() == Some(name))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        assert_eq!(shown.split_once('=').unwrap().1, rest.split_once('=').unwrap().1);
    }
    assert!(!text.contains("hunter22"), "{text}");
}

#[test]
fn the_guides_settings_are_accepted_as_shown() {
    let folder = built_repository();
    let mut check = shell("guide", &block_of(GUIDE, "sh", "--log-sink"), folder.path());
    assert!(check.wait(Duration::from_secs(60)).success());
    for line in ["https://logs.example.com/ingest (--log-sink)", "http://127.0.0.1:4318 (--otlp-endpoint)"] {
        assert!(check.log().contains(line), "{line} in {}", check.log());
    }
    assert!(!check.log().contains("from-your-secret-store"));
}
