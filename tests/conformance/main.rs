//! The official Python package, unmodified, as client and as worker. `make python-client` installs it. [`checklist`] says where
//! each statement about workers is tested.

#![expect(clippy::panic, reason = "what cannot be done here fails the test")]

mod bad_days;
mod checklist;

use std::path::PathBuf;
use std::time::Duration;

use end_to_end_tests::{Client, Daemon, Endpoint, Stack, WorkerOptions, eventually, repository};
use serde_json::{Value, json};

/// The environment in which `import runpod` finds the pinned package.
fn python_env() -> Vec<(String, String)> {
    let packages = repository().join(".venv/runpod");
    assert!(packages.join("runpod").is_dir(), "the official Python package is not installed: run `make python-client`");
    vec![
        ("PYTHONPATH".to_owned(), packages.to_string_lossy().into_owned()),
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
    ]
}

fn script(name: &str) -> String {
    repository().join("tests/conformance").join(name).to_string_lossy().into_owned()
}

fn python() -> PathBuf {
    PathBuf::from("python3")
}

/// What `client.py` saw.
async fn official_client(endpoint: &Endpoint, input: &Value) -> Value {
    let mut env = python_env();
    env.push(("RUNPOD_ENDPOINT_BASE_URL".to_owned(), endpoint.base.clone()));
    let args = [script("client.py"), "test".to_owned(), input.to_string()];
    let mut client = Daemon::start("client.py", &python(), &args, &env);
    let status = client.wait(Duration::from_secs(120));
    let log = client.log();
    assert!(status.success(), "client.py failed:\n{log}");
    let last = log.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {log}"))
}

/// The official worker on this endpoint, with the handler of this name from `worker.py`.
fn official_worker(endpoint: &Endpoint, handler: &str) -> Daemon {
    official_worker_with(endpoint.worker_env("python-1"), handler)
}

/// The official worker with these variables of the platform.
fn official_worker_with(platform: Vec<(String, String)>, handler: &str) -> Daemon {
    let mut env = python_env();
    env.extend(platform);
    for (name, value) in [
        ("CONFORMANCE_HANDLER", handler),
        ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true"),
        ("RUNPOD_SKIP_GPU_CHECK", "true"),
    ] {
        env.push((name.to_owned(), value.to_owned()));
    }
    Daemon::start("worker.py", &python(), &[script("worker.py")], &env)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_gets_the_vectors() {
    let model = repository().join(".models/all-MiniLM-L6-v2");
    let options = WorkerOptions::default().env("TEXT_EMBEDDINGS_MODEL_DIR", &model.to_string_lossy());
    let stack = Stack::start("text-embeddings", options).await;
    let seen = official_client(&stack.endpoint, &json!({"input": ["A cat sat.", "Ein Hund schlief."]})).await;

    let vectors = seen["run_sync"]["embeddings"].as_array().unwrap();
    assert_eq!(vectors.len(), 2);
    for vector in vectors {
        let numbers: Vec<f64> = vector.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect();
        let length: f64 = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
        assert!(numbers.len() == 384 && (length - 1.0).abs() < 1e-4, "{} numbers of length {length}", numbers.len());
    }
    assert_eq!(seen["output"], seen["run_sync"]);
    assert_eq!(seen["status"], "COMPLETED");
    assert_eq!(seen["asyncio"], json!({"status": "COMPLETED", "output": seen["run_sync"]}));
    assert_eq!(seen["health"]["jobs"]["completed"], 3);
    assert_eq!(seen["health"]["jobs"]["failed"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_worker_takes_our_jobs() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let mut worker = official_worker(&endpoint, "plain");

    let good = client.run(json!({"number": 21})).await;
    assert_eq!((&good["status"], &good["output"]), (&json!("COMPLETED"), &json!({"doubled": 42})));
    assert_eq!(good["workerId"], "python-1");

    let bad = client.run(json!({"fail": true})).await;
    assert_eq!(bad["status"], "FAILED");
    let error: Value = serde_json::from_str(bad["error"].as_str().unwrap()).unwrap();
    assert_eq!(error["error_message"], "told to fail");

    let health = client.health().await;
    assert_eq!((&health["jobs"]["completed"], &health["jobs"]["failed"]), (&json!(1), &json!(1)));
    assert_eq!(health["workers"]["idle"], 1);
    assert!(worker.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_worker_streams_to_our_readers() {
    let endpoint = Endpoint::start(&[]).await;
    let client: Client = endpoint.client();
    let _worker = official_worker(&endpoint, "generator");
    let id = client.submit(json!({"items": 5})).await;
    let items = client.stream(&id).await;
    let expected: Vec<Value> = (0..5).map(|number| json!({"number": number})).collect();
    assert_eq!(items, expected);
    eventually("the job to be completed", || async {
        (client.status(&id).await["status"] == "COMPLETED").then_some(())
    })
    .await;
}
