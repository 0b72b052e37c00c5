//! The Python scripts of docs/operations.md, as they stand there; only the address and the endpoint id are changed.

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Daemon, Endpoint, Worker, WorkerOptions, binary, eventually, repository};
use serde_json::json;

/// The script that contains `word`, running.
fn script(endpoint: &Endpoint, word: &str, changes: &[(&str, &str)]) -> Daemon {
    let guide = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let mut blocks = guide.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains(word)).unwrap_or_else(|| panic!("no script with {word}"));
    let mut script = block.replace("http://127.0.0.1:8000/v2", &endpoint.base).replace("\"local\"", "\"test\"");
    for (from, to) in changes {
        assert!(script.contains(from), "no {from} in {script}");
        script = script.replace(from, to);
    }
    let packages = repository().join(".venv/runpod");
    assert!(packages.join("runpod").is_dir(), "the official Python package is not installed: run `make python-client`");
    let env = [("PYTHONPATH".to_owned(), packages.to_string_lossy().into_owned())];
    Daemon::start("python", Path::new("python3"), &["-c".to_owned(), script], &env)
}

async fn says(python: &Daemon, text: &str) {
    eventually(&format!("{text:?} from the script"), || async { python.log().contains(text).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_polls_the_health_sees_queue_workers_and_failures() {
    let endpoint = Endpoint::start(&[]).await;
    let client = endpoint.client();
    let python = script(&endpoint, "def problems", &[]);

    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    client.run(json!({"do": "ok"})).await;
    client.run(json!({"do": "error"})).await;
    says(&python, "50% of the jobs failed").await;
    drop(worker);

    for _ in 0..51 {
        client.submit(json!({"do": "ok"})).await;
    }
    says(&python, "51 jobs wait").await;

    // What RunPod's own worker reports when a check fails.
    let ping = format!("{}/test/ping/worker-2?status=unhealthy&check=gpu&reason=lost", endpoint.base);
    reqwest::get(ping).await.unwrap();
    says(&python, "1 workers are unhealthy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_follows_a_job_sees_every_state() {
    let endpoint = Endpoint::start(&[]).await;
    // Long enough to be seen, and what the puppet takes.
    let input = [("{\"text\": \"hello\"}", "{\"do\": \"sleep_ms\", \"ms\": 2000}")];
    let mut python = script(&endpoint, "def follow", &input);
    says(&python, "None -> IN_QUEUE").await;
    let _worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    says(&python, "IN_QUEUE -> IN_PROGRESS").await;
    says(&python, "IN_PROGRESS -> COMPLETED").await;
    assert!(python.wait(Duration::from_secs(60)).success());
    assert!(python.log().contains("'ok': True"), "{}", python.log());
}
