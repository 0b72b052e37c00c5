//! Files that jobs name and files that jobs make, with a real S3 server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::Duration;

use end_to_end_tests::{S3Server, Stack, WorkerOptions, eventually, free_port};
use serde_json::{Value, json};

use crate::failures::error;

fn with_bucket(endpoint: &str) -> WorkerOptions {
    WorkerOptions::default()
        .env("BUCKET_ENDPOINT_URL", endpoint)
        .env("BUCKET_ACCESS_KEY_ID", S3Server::KEY_ID)
        .env("BUCKET_SECRET_ACCESS_KEY", S3Server::SECRET)
        .env("BUCKET_NAME", S3Server::BUCKET)
}

/// A server whose answer never ends.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                sleep(Duration::from_millis(20));
            }
        }
    });
    address
}

/// A server that never answers.
fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>());
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_goes_to_the_bucket_and_the_next_job_fetches_it() {
    let server = S3Server::start().await;
    let options = with_bucket(&server.base())
        .env("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "127.0.0.0/8")
        .env("RUNPOD_UPLOAD_OUTPUT_ABOVE_BYTES", "2000");
    let stack = Stack::start("puppet-handler", options).await;
    let uploaded = stack.client.run(json!({"do": "upload", "name": "note.txt", "text": "hello"})).await;
    let link = uploaded["output"]["url"].as_str().unwrap_or_else(|| panic!("{uploaded}"));
    assert_eq!(reqwest::get(link).await.unwrap().text().await.unwrap(), "hello");
    let fetched = stack.client.run(json!({"do": "fetch", "file": link})).await;
    assert_eq!(
        fetched["output"],
        json!({"name": "note.txt", "content_type": "text/plain", "text": "hello"}),
        "{fetched}"
    );

    let large = stack.client.run(json!({"do": "big_output", "bytes": 2001})).await;
    let file = &large["output"]["output_file"];
    assert_eq!((&large["status"], &file["bytes"]), (&json!("COMPLETED"), &json!(2003)), "{large}");
    let output: Value =
        serde_json::from_slice(&reqwest::get(file["url"].as_str().unwrap()).await.unwrap().bytes().await.unwrap())
            .unwrap();
    assert_eq!(output.as_str().unwrap().len(), 2001);
    assert!(!stack.worker.daemon.log().contains(S3Server::SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_or_bucket_fails_its_job_and_nothing_else() {
    let closed = format!("http://127.0.0.1:{}", free_port());
    let stack = Stack::start("puppet-handler", with_bucket(&closed)).await;
    let before = stack.client.run(json!({"do": "ok"})).await;
    for (input, kind, text) in [
        (
            json!({"do": "fetch", "file": format!("{closed}/secret-path")}),
            "validation",
            "127.0.0.1 has no public address",
        ),
        (json!({"do": "fetch", "file": "file:///etc/passwd"}), "validation", "expected an http:// or https:// URL"),
        (
            json!({"do": "upload", "name": "a", "text": "b"}),
            "inference_error",
            "the upload to the bucket \"results\" at 127.0.0.1",
        ),
    ] {
        let job = stack.client.run(input.clone()).await;
        let error = error(&job);
        assert_eq!(error["error_type"], kind, "{input}: {error}");
        let message = error["error_message"].as_str().unwrap();
        assert!(message.contains(text) && !message.contains("secret-path"), "{input}: {error}");
    }
    let after = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!(after["output"]["pid"], before["output"]["pid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_an_endless_download_and_the_process_goes_on() {
    let options = WorkerOptions::default().env("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true");
    let stack = Stack::start("puppet-handler", options).await;
    let before = stack.client.run(json!({"do": "ok"})).await;
    let id = stack.client.submit(json!({"do": "fetch", "file": format!("http://{}/", endless())})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    stack.client.cancel(&id).await;
    let after = stack.client.run(json!({"do": "ok"})).await;
    assert_eq!((&after["status"], &after["output"]["pid"]), (&json!("COMPLETED"), &before["output"]["pid"]), "{after}");
}

/// Ways to run the test handler in which a process holds many jobs.
const TOGETHER: [&str; 3] = ["PUPPET_BATCH", "PUPPET_STEP", "PUPPET_ASYNC"];

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_every_kind_upload_large_outputs() {
    let server = S3Server::start().await;
    for mode in TOGETHER {
        let options = with_bucket(&server.base()).env(mode, "1").env("RUNPOD_UPLOAD_OUTPUT_ABOVE_BYTES", "2000");
        let stack = Stack::start("puppet-handler", options).await;
        let mut ids = Vec::new();
        for bytes in [2001, 10, 2002, 11] {
            ids.push((bytes, stack.client.submit(json!({"do": "big_output", "bytes": bytes})).await));
        }
        for (bytes, id) in ids {
            let job = stack.client.finished(&id).await;
            assert_eq!(job["status"], "COMPLETED", "{mode}: {job}");
            let file = &job["output"]["output_file"];
            let sent = if bytes > 2000 {
                let link = file["url"].as_str().unwrap_or_else(|| panic!("{mode}: {job}"));
                reqwest::get(link).await.unwrap().json().await.unwrap()
            } else {
                job["output"].clone()
            };
            assert_eq!(sent.as_str().map(str::len), Some(bytes), "{mode}: {job}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_hangs_holds_up_no_other_job_and_ends_when_its_job_is_cancelled() {
    let bucket = format!("http://{}", silent());
    for mode in TOGETHER {
        let options = with_bucket(&bucket).env(mode, "1").env("RUNPOD_UPLOAD_OUTPUT_ABOVE_BYTES", "2000");
        let stack = Stack::start("puppet-handler", options).await;
        let pid = stack.worker.handler_pid().await;
        let uploading = stack.client.submit(json!({"do": "big_output", "bytes": 2001})).await;
        stack.client.reaches(&uploading, "IN_PROGRESS").await;
        for _ in 0..3 {
            let other = stack.client.run(json!({"do": "big_output", "bytes": 10})).await;
            assert_eq!((&other["status"], &other["output"]), (&json!("COMPLETED"), &json!("x".repeat(10))), "{mode}");
        }
        assert_eq!(stack.client.status(&uploading).await["status"], "IN_PROGRESS", "{mode}: its output is on its way");
        stack.client.cancel(&uploading).await;
        eventually("its slot to be free", async || {
            let slots = stack.worker.health().await["worker"]["slots"].clone();
            (slots["busy"] == 0 && slots["lingering"] == 0).then_some(())
        })
        .await;
        assert_eq!(stack.worker.handler_pid().await, pid, "{mode}: the process goes on");
    }
}
