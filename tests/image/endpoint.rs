//! The image of the endpoint.

use std::time::Duration;

use end_to_end_tests::{Client, Worker, WorkerOptions, binary, eventually, free_port, worker_env};
use rustix::process::Signal;
use serde_json::json;

use crate::container::{Image, Start, first_process, signal};

const ITS_OWN_USER: Start = Start { user: "10001:10001", read_only: false };

/// The container's whole life: it takes a job to a worker elsewhere, is healthy, keeps its data and stops when asked.
async fn lives_and_stops(start: Start) {
    let image = Image::under_test();
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = [image.list("Entrypoint"), image.list("Cmd")].concat();
    let bind = command.iter().position(|word| word == "0.0.0.0:8000").unwrap();
    command[bind].clone_from(&address);
    let mut daemon = image.start("endpoint", start, &[], &command);
    let base = format!("http://{address}/v2/test");
    let ready = format!("http://{address}/ready");
    eventually("the endpoint to be ready", || async {
        reqwest::get(&ready).await.ok().filter(|reply| reply.status().is_success())
    })
    .await;

    let worker = Worker::start_with(worker_env(&base, "worker-1"), &binary("echo"), WorkerOptions::default());
    worker.ready().await;
    let done = Client::new(&base).run(json!({ "text": "hello" })).await;
    assert_eq!((&done["status"], &done["output"]["text"]), (&json!("COMPLETED"), &json!("hello")), "{done}");
    drop(worker);
    let data = format!("/proc/{}/root/data/endpoint.db", first_process(&daemon).as_raw_nonzero());
    assert!(std::fs::metadata(&data).is_ok(), "no {data}");

    let health_check = image.health_check();
    let probe: Vec<&str> = health_check.iter().map(String::as_str).chain(["--bind", &address]).collect();
    let (code, text) = image.run(start, &[], &probe);
    assert_eq!((code, text.trim()), (Some(0), r#"{"state":"live"}"#));
    signal(&daemon, Signal::TERM);
    let status = daemon.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    let (code, text) = image.run(start, &[], &probe);
    assert_eq!(code, Some(1), "the health check passes without an endpoint: {text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn as_its_own_user() {
    lives_and_stops(ITS_OWN_USER).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn as_a_user_that_it_does_not_know() {
    lives_and_stops(Start { user: "12345:0", read_only: false }).await;
}

#[test]
#[ignore = "needs an image: make image-test"]
fn without_keys_it_is_not_open_to_everyone() {
    let image = Image::under_test();
    let command = [image.list("Entrypoint"), image.list("Cmd")].concat();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let (code, text) = image.run(ITS_OWN_USER, &[], &command);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("--api-key"), "{text}");
}

#[test]
#[ignore = "needs an image: make image-test"]
fn it_says_what_an_engine_must_know() {
    let config = Image::under_test().config;
    for (name, expected) in [("User", "10001:10001"), ("StopSignal", "SIGTERM")] {
        assert_eq!(config[name], expected, "{name}");
    }
    assert!(config["ExposedPorts"].get("8000/tcp").is_some());
    assert!(config["Volumes"].get("/data").is_some());
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
}
