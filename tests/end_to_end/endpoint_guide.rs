//! What `docs/endpoint.md` shows is run as it stands there; only addresses and the handler's path are changed.

use std::time::Duration;

use end_to_end_tests::{Daemon, Endpoint, Worker, WorkerOptions, binary, eventually, free_port};
use serde_json::{Value, json};

use crate::readme::{block_of, shell};

const GUIDE: &str = "docs/endpoint.md";

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_of_the_guides_file_are_served_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.toml");
    let echo = format!("{:?}", binary("echo").to_string_lossy());
    let text = block_of(GUIDE, "toml", "[[endpoint]]").replace("\"./image-handler\"", &echo);
    assert!(text.contains(&echo), "the guide's handler has another name: {text}");
    std::fs::write(&file, text).unwrap();
    let base = format!("127.0.0.1:{}", free_port());
    let arguments = ["serve", "--bind", &base, "--worker-http-port", "0", "--config", &file.to_string_lossy()];
    let _server = Daemon::start("serve", &binary("runpod-endpoint"), &arguments.map(str::to_owned), &[]);
    let status = async |id: &str| Some(reqwest::get(format!("http://{base}/v2/{id}/health")).await.ok()?.status());
    assert_eq!(eventually("the endpoint `images`", || status("images")).await, 200);
    assert_eq!(status("remote").await.unwrap(), 200);
    assert_eq!(status("others").await.unwrap(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_brings_its_own_faults_as_the_guide_shows() {
    let endpoint = Endpoint::start(&["--allow-fault-header"]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::default());
    worker.ready().await;
    let script = block_of(GUIDE, "sh", "X-Runpod-Faults")
        .replace("http://127.0.0.1:8000/v2/local", &format!("{}/test", endpoint.base))
        .replace("{\"prompt\": \"hi\"}", "{\"do\": \"ok\"}");
    let mut curl = shell("guide: faults", &script, endpoint.daemon.folder());
    assert!(curl.wait(Duration::from_secs(60)).success());
    let reply = curl.log();
    let reply: Value = serde_json::from_str(reply.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    let job = endpoint.client().finished(reply["id"].as_str().unwrap()).await;
    assert_eq!(job["status"], json!("COMPLETED"));
    let metrics = worker.metrics().await;
    let retries = metrics.lines().find_map(|line| line.strip_prefix("runpod_worker_delivery_retries_total "));
    assert_eq!(retries, Some("2"), "the result was to be refused twice");
}
