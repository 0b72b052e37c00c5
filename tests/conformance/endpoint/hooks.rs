//! What version 2.0 of the official worker does that 1.12 does not: hooks before the first job, and logs in errors.

use std::time::Duration;

use end_to_end_tests::{Client, Daemon, Endpoint};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::official::{self, Python};

/// Longest time for a worker to end.
const END: Duration = Duration::from_secs(90);

async fn start(args: &[&str]) -> (Endpoint, Client) {
    let endpoint = Endpoint::start(&[&["--hold", "3s"], args].concat()).await;
    let client = endpoint.local();
    (endpoint, client)
}

async fn worker(endpoint: &Endpoint, name: &str, handler: &str, env: &[(&str, &str)]) -> Daemon {
    let mut platform = endpoint.printed_worker_env().await;
    let own = [("RUNPOD_PING_INTERVAL", "1000"), ("RUNPOD_POD_ID", name)];
    for (name, value) in own.iter().chain(env) {
        platform.retain(|(known, _)| known != name);
        platform.push(((*name).to_owned(), (*value).to_owned()));
    }
    official::worker(Python::V2, platform, handler)
}

fn error(job: &Value) -> Value {
    let error = job["error"].as_str().unwrap_or_else(|| panic!("no error in {job}"));
    serde_json::from_str(error).unwrap_or_else(|problem| panic!("{problem}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_slow_hooks_and_is_not_given_to_another_worker() {
    let (endpoint, client) = start(&["--lease", "5s"]).await;
    let _worker = worker(&endpoint, "slow", "slow_hook", &[("CONFORMANCE_HOOK_SECONDS", "7")]).await;
    let id = client.submit(json!({"number": 21})).await;
    let done = client.finished(&id).await;
    assert_eq!((&done["status"], &done["output"]), (&json!("COMPLETED"), &json!({"doubled": 42})));
    assert_eq!(done.get("retries"), None, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_hooks_fail_one_job_with_the_reason_and_the_others_are_run_elsewhere() {
    // At once, while the worker holds no job, and later, while it holds one.
    for seconds in ["0", "1.5"] {
        let (endpoint, client) = start(&["--lease", "5s"]).await;
        let ids = [client.submit(json!({"number": 1})).await, client.submit(json!({"number": 2})).await];
        let mut broken = worker(&endpoint, "broken", "failing_hook", &[("CONFORMANCE_HOOK_SECONDS", seconds)]).await;
        assert_eq!(broken.wait(END).code(), Some(1));
        // Its heartbeat is a process of its own, which the end of a container would kill.
        drop(broken);
        let _good = worker(&endpoint, "good", "plain", &[]).await;
        let mut failed = Vec::new();
        for id in ids {
            let job = client.finished(&id).await;
            if job["status"] == "FAILED" {
                failed.push(error(&job));
            }
        }
        assert!(failed.len() <= 1, "hooks after {seconds} s: {failed:?}");
        for error in &failed {
            assert_eq!(
                (&error["event"], &error["error_message"]),
                (&json!("prestart_failed"), &json!("no weights for this model"))
            );
            assert_eq!(client.health().await["workers"]["unhealthy"], 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_during_its_hooks_gives_its_job_back() {
    let (endpoint, client) = start(&[]).await;
    let id = client.submit(json!({"number": 21})).await;
    let mut stopped = worker(&endpoint, "stopped", "slow_hook", &[("CONFORMANCE_HOOK_SECONDS", "60")]).await;
    stopped.logs("Jobs in queue: 1").await;
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.wait(END).code(), Some(0));
    // Its heartbeat is a process of its own, which the end of a container would kill.
    drop(stopped);
    client.reaches(&id, "IN_QUEUE").await;
    let _good = worker(&endpoint, "good", "plain", &[]).await;
    let done = client.finished(&id).await;
    assert_eq!((&done["status"], &done["workerId"], done.get("retries")), (&json!("COMPLETED"), &json!("good"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_with_the_logs_of_the_worker_is_returned_whole() {
    let (endpoint, client) = start(&[]).await;
    let _worker = worker(&endpoint, "chatty", "chatty", &[("RUNPOD_LOG_CAPTURE", "all")]).await;
    let error = error(&client.run(json!({})).await);
    let logs = error["logs"].as_str().unwrap();
    assert!(logs.len() == 16_384 && logs.contains("the last words"), "{} bytes", logs.len());
    assert_eq!(error["error_message"], "told to fail");
}
