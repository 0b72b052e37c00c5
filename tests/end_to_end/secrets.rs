//! Secrets are planted in every place where a worker reads one, and the handler prints them in every way: all output is masked.

use std::time::Duration;

use end_to_end_tests::{Endpoint, Receiver, Worker, WorkerOptions, binary, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const KEY: &str = "planted-worker-key-1";
const VARIABLE: &str = "planted-variable/2+";
const ACCESS_ID: &str = "planted-access-id-3";
const ACCESS_SECRET: &str = "planted\"access\\secret-4";
const SIGNATURE: &str = "9f8e7d6c5b4a39281706";
const URL_PASSWORD: &str = "planted-password-6";
const SINK_TOKEN: &str = "planted-sink-token-7";
const HEADER: &str = "planted-header-8";
const HOOK: &str = "planted-hook-9";

fn url() -> String {
    format!(
        "https://user:{URL_PASSWORD}@bucket.example.com/in.png?X-Amz-Credential=AKIAPLANTED%2F20260101&X-Amz-Expires=60&X-Amz-Signature={SIGNATURE}"
    )
}

/// A job whose handler prints every secret that it knows.
pub(crate) fn blab(number: u32) -> Value {
    json!({
        "input": {"do": "blab", "token": format!("secret-input-{number}"), "url": url()},
        "s3Config": {"accessId": ACCESS_ID, "accessSecret": ACCESS_SECRET, "bucketName": "b", "endpointUrl": "https://s3"},
    })
}

/// A secret variable that the handler prints.
pub(crate) fn planted_variable() -> (String, String) {
    ("PUPPET_API_KEY".to_owned(), VARIABLE.to_owned())
}

/// Nothing of what was planted is in `text`.
pub(crate) fn assert_clean(what: &str, text: &str) {
    let planted = [
        KEY,
        VARIABLE,
        ACCESS_ID,
        "access\\secret-4",
        "access\\\\secret-4",
        SIGNATURE,
        URL_PASSWORD,
        SINK_TOKEN,
        HEADER,
        HOOK,
        "AKIAPLANTED",
        "secret-input-",
    ];
    for secret in planted {
        let found = text.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "{secret} in {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_a_handler_prints_are_masked_everywhere() {
    let (endpoint, receiver) = (Endpoint::start(&[]).await, Receiver::start().await);
    let options = WorkerOptions::flags(&["--slots", "2", "--log-rate", "0", "--log-level", "trace"])
        .env("RUNPOD_AI_API_KEY", KEY)
        .env("PUPPET_API_KEY", VARIABLE)
        .env("RUNPOD_WORKER_LOG_SINK", &receiver.url)
        .env("RUNPOD_WORKER_LOG_SINK_TOKEN", SINK_TOKEN)
        .env("RUNPOD_WORKER_ALERT_WEBHOOK", &format!("{}/{HOOK}", receiver.url))
        .env("OTEL_EXPORTER_OTLP_HEADERS", &format!("x-team=a%20{HEADER}, authorization=Basic%20{HEADER}-b"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url);
    let mut worker = Worker::start(&endpoint, &binary("puppet-handler"), options);
    worker.ready().await;
    let client = endpoint.client();
    for number in 0..8 {
        let id = client.submit_request(blab(number)).await;
        let job = client.finished(&id).await;
        assert_eq!(job["status"], "FAILED");
        let text = job["error"].as_str().unwrap();
        assert!(text.contains("***") && text.contains("bucket.example.com/in.png"), "{text}");
        assert_clean("the job's error", text);
        match number {
            // The other ways in which a job ends, and a handler.
            1 => drop(client.run(json!({"do": "segv"})).await),
            3 => drop(client.run(json!({"do": "validation"})).await),
            5 => {
                let pid = worker.handler_pid().await.and_then(Pid::from_raw).unwrap();
                kill_process(pid, Signal::KILL).unwrap();
                eventually("another handler", || async {
                    let next = worker.handler_pid().await.and_then(Pid::from_raw);
                    next.filter(|next| *next != pid)
                })
                .await;
                worker.ready().await;
            }
            _ => {}
        }
    }
    // Refused before the handler has it: the value does not fit.
    let wrong = client.run(json!({"do": "blab", "token": ["secret-input-x"], "url": url()})).await;
    assert_eq!(wrong["status"], "FAILED");
    assert_clean("the error of an input that does not fit", wrong["error"].as_str().unwrap());

    assert_clean("/health", &worker.health().await.to_string());
    assert_clean("/metrics", &worker.metrics().await);
    let ready = reqwest::get(format!("{}/ready", worker.http)).await.unwrap().text().await.unwrap();
    assert_clean("/ready", &ready);
    eventually("the last words of the handler", || async {
        worker.daemon.log().matches("authorization: Bearer ***").count().ge(&8).then_some(())
    })
    .await;
    worker.daemon.signal(Signal::TERM);
    assert_eq!(worker.daemon.wait(Duration::from_secs(30)).code(), Some(0));
    assert_clean("the log", &worker.daemon.log());
    let posted = receiver.posted();
    assert!(posted.iter().any(|posted| posted.path == "/v1/traces") && posted.len() > 2);
    for posted in posted {
        assert_clean("what the sink and the traces got", &String::from_utf8_lossy(&posted.body));
    }
}
