//! The official Python package and JavaScript SDK, unmodified, as clients and as worker, and the official OpenAI clients. `make
//! python-client js-client openai-client openai-js-client` installs them. [`checklist`] lists the tests of each statement about workers, [`endpoint::checklist`] of each about endpoints.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what cannot be done here fails the test")]

mod bad_days;
mod checklist;
mod endpoint;
mod official;
mod openai;

use end_to_end_tests::{Client, Daemon, Endpoint, Stack, WorkerOptions, eventually, repository};
use serde_json::{Value, json};

use crate::official::Python;

/// What `client.py` saw.
fn official_client(python: Python, endpoint: &Endpoint, input: &Value) -> Value {
    official::python_client(python, "client.py", &endpoint.base, &["test", &input.to_string()])
}

/// The official worker on this endpoint, with the handler of this name from `worker.py`.
fn official_worker(python: Python, endpoint: &Endpoint, handler: &str) -> Daemon {
    official::worker(python, endpoint.worker_env("python-1"), handler)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_gets_the_vectors() {
    official::each(|python| async move {
        let model = repository().join(".models/all-MiniLM-L6-v2");
        let options = WorkerOptions::default().env("TEXT_EMBEDDINGS_MODEL_DIR", &model.to_string_lossy());
        let stack = Stack::start("text-embeddings", options).await;
        let seen = official_client(python, &stack.endpoint, &json!({"input": ["A cat sat.", "Ein Hund schlief."]}));

        let vectors = seen["run_sync"]["embeddings"].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let numbers: Vec<f64> = vector.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect();
            let length: f64 = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
            assert!(
                numbers.len() == 384 && (length - 1.0).abs() < 1e-4,
                "{} numbers of length {length}",
                numbers.len()
            );
        }
        assert_eq!(seen["output"], seen["run_sync"]);
        assert_eq!(seen["status"], "COMPLETED");
        assert_eq!(seen["asyncio"], json!({"status": "COMPLETED", "output": seen["run_sync"]}));
        assert_eq!(seen["health"]["jobs"]["completed"], 3);
        assert_eq!(seen["health"]["jobs"]["failed"], 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_worker_takes_our_jobs() {
    official::each(|python| async move {
        let endpoint = Endpoint::start(&[]).await;
        let client = endpoint.client();
        let mut worker = official_worker(python, &endpoint, "plain");

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
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_worker_streams_to_our_readers() {
    official::each(|python| async move {
        let endpoint = Endpoint::start(&[]).await;
        let client: Client = endpoint.client();
        let _worker = official_worker(python, &endpoint, "generator");
        let id = client.submit(json!({"items": 5})).await;
        let items = client.stream(&id).await;
        let expected: Vec<Value> = (0..5).map(|number| json!({"number": number})).collect();
        assert_eq!(items, expected);
        eventually("the job to be completed", || async {
            (client.status(&id).await["status"] == "COMPLETED").then_some(())
        })
        .await;
    })
    .await;
}
