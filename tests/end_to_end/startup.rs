//! A worker that cannot work logs the reason and the fix in one line, and takes no job.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Endpoint, Worker, WorkerOptions, binary, free_port, run_tool};
use serde_json::json;

/// Starts a worker that must give up; returns its exit status and its log. A job that waits meanwhile must still wait.
async fn gives_up(handler: impl AsRef<Path>, options: WorkerOptions) -> (i32, String) {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let id = client.submit(json!({"text": "patience"})).await;
    let mut worker = Worker::start(&endpoint, handler.as_ref(), options);
    let code = worker.daemon.wait(Duration::from_secs(40)).code().unwrap();
    assert_eq!(client.status(&id).await["status"], "IN_QUEUE", "a job was taken by a worker that cannot run it");
    (code, worker.daemon.log())
}

fn assert_says(log: &str, words: &[&str]) {
    let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line with {words:?} in:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_does_not_exist_ends_the_worker_with_the_reason() {
    let (code, log) = gives_up("no/such/handler", WorkerOptions::default()).await;
    assert_eq!(code, 64);
    assert_says(&log, &["no/such/handler", "build it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_not_executable_ends_the_worker_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let handler = folder.path().join("handler");
    std::fs::write(&handler, "not a program").unwrap();
    std::fs::set_permissions(&handler, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, log) = gives_up(handler, WorkerOptions::default()).await;
    assert_eq!(code, 64);
    assert_says(&log, &["chmod +x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_a_handler_ends_the_worker_with_the_reason() {
    let (code, log) = gives_up("/bin/true", WorkerOptions::default()).await;
    assert_eq!(code, 1);
    assert_says(&log, &["before it introduced itself"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_another_protocol_ends_the_worker_with_the_reason() {
    let options = WorkerOptions::default().env("PUPPET_START", "wrong_protocol");
    let (code, log) = gives_up(binary("puppet-handler"), options).await;
    assert_eq!(code, 1);
    assert_says(&log, &["protocol", "runpod-handler-sdk"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_sends_garbage_ends_the_worker_with_the_reason() {
    let options = WorkerOptions::default().env("PUPPET_START", "garbage");
    let (code, log) = gives_up(binary("puppet-handler"), options).await;
    assert_eq!(code, 1);
    assert_says(&log, &["violated the protocol"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_exits_while_loading_ends_the_worker_with_the_reason() {
    let options = WorkerOptions::default().env("PUPPET_START", "exit");
    let (code, log) = gives_up(binary("puppet-handler"), options).await;
    assert_eq!(code, 1);
    assert_says(&log, &["the handler ended with exit code"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_file_that_is_missing_ends_the_worker_with_the_reason() {
    let options = WorkerOptions::default().env("TEXT_EMBEDDINGS_MODEL_DIR", "no/such/model");
    let (code, log) = gives_up(binary("text-embeddings"), options).await;
    assert_eq!(code, 1);
    assert_says(&log, &["the model could not be loaded", "no/such/model", "make model"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_ends_the_worker_with_the_reason() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let options = WorkerOptions { http_bind: Some(address.clone()), ..WorkerOptions::default() };
    let (code, log) = gives_up(binary("echo"), options).await;
    assert_eq!(code, 1);
    assert_says(&log, &[&address, "--http-bind"]);

    let worker = run_tool(&binary("runpod-endpoint").to_string_lossy(), &["serve", "--bind", &address]);
    assert_eq!(worker.status.code(), Some(1));
    assert_says(&String::from_utf8_lossy(&worker.stderr), &[&address, "--bind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configuration_error_is_reported_at_once() {
    let options =
        WorkerOptions::default().env("RUNPOD_PING_INTERVAL", "often").env("RUNPOD_WEBHOOK_POST_OUTPUT", "not a url");
    let (code, log) = gives_up("no/such/handler", options).await;
    assert_eq!(code, 64);
    for words in
        [["RUNPOD_PING_INTERVAL", "often"], ["RUNPOD_WEBHOOK_POST_OUTPUT", "is not a URL"], ["no/such/handler", ""]]
    {
        assert_says(&log, &words);
    }
}

/// A file without any certificate, and no folder with some.
fn without_certificates(options: WorkerOptions) -> WorkerOptions {
    options.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/nonexistent")
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_not_needed_where_nothing_is_encrypted() {
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), without_certificates(WorkerOptions::default()));
    worker.ready().await;
    assert_eq!(endpoint.client().run(json!({"do": "ok"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_without_certificates_ends_a_worker_whose_queue_needs_them() {
    let options = without_certificates(WorkerOptions::default())
        .env("RUNPOD_WEBHOOK_GET_JOB", "https://127.0.0.1:1/v2/test/job-take/$ID?gpu=LOCAL");
    let (code, log) = gives_up(binary("puppet-handler"), options).await;
    assert_eq!(code, 64);
    assert_says(&log, &["install the ca-certificates package"]);
}
