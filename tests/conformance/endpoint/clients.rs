//! The unmodified official clients against the endpoint.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use end_to_end_tests::{Daemon, Endpoint};
use serde_json::{Value, json};

use crate::official::{self, Python};

const COUNTERS: [(&str, &[&str]); 2] = [
    ("jobs", &["completed", "failed", "inProgress", "inQueue", "retried"]),
    ("workers", &["idle", "initializing", "ready", "running", "throttled", "unhealthy"]),
];

async fn start(python: Python, worker: &str) -> (Endpoint, Daemon) {
    let endpoint = Endpoint::start(&["--hold", "3s"]).await;
    let worker = official::worker(python, endpoint.printed_worker_env().await, worker);
    (endpoint, worker)
}

/// What `client.py` saw in this mode.
fn client(python: Python, endpoint: &Endpoint, args: &[&str]) -> Value {
    official::python_client(python, "endpoint/client.py", &endpoint.base, args)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_synchronous_client_completes_every_operation() {
    official::each(|python| async move {
        let (endpoint, _worker) = start(python, "generator").await;
        let seen = client(python, &endpoint, &["sync"]);
        let items: Vec<_> = (0..5).map(|number| json!({"number": number})).collect();
        assert_eq!(seen["stream"], json!(items), "exactly the items, and the iteration ended");
        assert_eq!((&seen["status"], &seen["output"]), (&json!("COMPLETED"), &json!([])));
        assert_eq!(seen["run_sync"], json!([]));
        for (group, names) in COUNTERS {
            for name in names {
                assert!(seen["health"][group][name].is_u64(), "{group}.{name}: {}", seen["health"]);
            }
        }
        assert_eq!((&seen["cancel"]["status"], &seen["cancelled"]), (&json!("CANCELLED"), &json!("CANCELLED")));
        assert_eq!(seen["cancelled_stream"], "HTTPError", "an error status ends the client's endless loop");
        assert_eq!(seen["purge"]["status"], "completed");
        assert_eq!(seen["unknown"], "HTTPError");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_asynchronous_client_submits_polls_streams_and_cancels() {
    official::each(|python| async move {
        let (endpoint, _worker) = start(python, "aggregate").await;
        let seen = client(python, &endpoint, &["async"]);
        let items = json!([{"number": 0}, {"number": 1}, {"number": 2}]);
        assert_eq!((&seen["stream"], &seen["output"], &seen["status"]), (&items, &items, &json!("COMPLETED")));
        assert_eq!(seen["cancel"]["status"], "CANCELLED");
        assert_eq!(seen["purge"]["status"], "completed");
    })
    .await;
}

/// Version 2.0 asks for pods at RunPod's management API instead of GraphQL.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_pod_queries_show_local_workers() {
    let folder = tempfile::tempdir().unwrap();
    // This worker only waits for its end.
    let program = folder.path().join("worker");
    std::fs::write(&program, "#!/bin/sh\nexec cat\n").unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let program = program.to_string_lossy();
    let endpoint = Endpoint::start(&["--worker-bin", &program, "--worker-http-port", "9200", "--", "handler"]).await;
    endpoint.local().get_when("/health", |health| health["workers"]["initializing"] == 1).await;
    let seen = client(Python::V1, &endpoint, &["pods"]);
    assert_eq!((&seen["pods"][0]["id"], &seen["unknown"]), (&json!("local-0"), &json!(null)));
    let pod = &seen["pod"];
    assert_eq!(
        (&pod["id"], &pod["desiredStatus"], &pod["ports"]),
        (&json!("local-0"), &json!("RUNNING"), &json!("9200/http"))
    );
    assert_eq!(pod["runtime"]["ports"][0]["privatePort"], 9200);
    assert!(pod["uptimeSeconds"].is_u64() && pod["memoryInGb"].is_u64(), "{pod}");
}

async fn many_jobs(python: Python, count: usize) {
    let (endpoint, _worker) = start(python, "crowd").await;
    let seen = client(python, &endpoint, &["thousand", &count.to_string()]);
    assert_eq!(seen["right"], count);
    let jobs = json!({"completed": count, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0});
    assert_eq!(seen["health"]["jobs"], jobs, "none lost, none run twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_in_a_row_are_neither_lost_nor_run_twice() {
    official::each(|python| async move {
        many_jobs(python, 100).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: the official worker starts at most 16 short jobs a second"]
async fn a_thousand_jobs_in_a_row_are_neither_lost_nor_run_twice() {
    many_jobs(Python::V1, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_client_completes_every_operation() {
    let (endpoint, _worker) = start(Python::V1, "generator").await;
    let seen = official::javascript_client(&endpoint.base);
    assert_eq!((&seen["runSync"]["status"], &seen["runSync"]["succeeded"]), (&json!("COMPLETED"), &json!(true)));
    assert_eq!(seen["stream"], json!([{"number": 0}, {"number": 1}, {"number": 2}]));
    assert_eq!((&seen["status"]["completed"], &seen["statusSync"]), (&json!(true), &json!("COMPLETED")));
    assert_eq!(seen["cancel"], "CANCELLED");
    assert_eq!(seen["purge"]["status"], "completed");
    assert!(seen["health"]["workers"]["idle"].is_u64());
}
