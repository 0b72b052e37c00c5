//! Local workers that come with the work and leave without it. The test speaks for the worker processes.

use serde_json::Value;
use tokio::time::timeout;

use crate::dev::{Dev, start};
use crate::support::SOON;

/// Tells its name, its process and its GPUs, and leaves when asked to.
const WORKER: &str =
    r#"trap 'echo "gone $RUNPOD_POD_ID"; exit 0' TERM; echo "life $RUNPOD_POD_ID $$ $CUDA_VISIBLE_DEVICES"; IDLE"#;

struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    async fn of(dev: &mut Dev) -> Self {
        Self { http: reqwest::Client::new(), base: dev.line("RunPod-compatible endpoint: ").await }
    }

    async fn send(&self, path: &str, body: Option<&'static str>) -> Value {
        let url = format!("{}/{path}", self.base);
        let request = match body {
            Some(body) => self.http.post(url).body(body),
            None => self.http.get(url),
        };
        let reply = timeout(SOON, request.header("Authorization", "worker-secret").send()).await.unwrap().unwrap();
        let text = reply.error_for_status().unwrap().text().await.unwrap();
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    async fn take(&self, worker: &str) -> String {
        self.send(&format!("job-take/{worker}?x=1"), None).await["id"].as_str().unwrap().to_owned()
    }

    async fn done(&self, worker: &str, job: &str) {
        self.send(&format!("job-done/{worker}/{job}?x=1"), Some("{}")).await;
    }

    /// Waits until `/health` says so.
    async fn health(&self, group: &str, name: &str, count: u64) {
        let asking = async {
            while self.send("health", None).await[group][name] != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, asking).await.unwrap_or_else(|_| panic!("{group}.{name} never became {count}"));
    }
}

fn name(line: &str) -> &str {
    line.split(' ').next().unwrap()
}

#[tokio::test]
async fn a_worker_starts_with_the_first_job_and_leaves_when_idle() {
    let args = ["--workers-min", "0", "--workers-max", "2", "--idle-timeout", "300ms", "--gpus", "5,7"];
    let mut dev = start(WORKER, &args);
    let client = Client::of(&mut dev).await;
    client.send("run", Some(r#"{"input": 1, "policy": {"lowPriority": true}}"#)).await;
    client.send("run", Some(r#"{"input": 2}"#)).await;
    let life = dev.line("life ").await;
    assert!(life.ends_with(" 5"), "the first worker gets the first GPU: {life}");
    for _ in 0..2 {
        let job = client.take(name(&life)).await;
        client.done(name(&life), &job).await;
    }
    assert_eq!(dev.line("gone ").await, name(&life));
    client.health("workers", "idle", 0).await;
    client.send("run", Some(r#"{"input": 3}"#)).await;
    assert_ne!(dev.line("life ").await, life, "another process");
}

#[tokio::test]
async fn a_queue_that_waits_brings_a_second_worker() {
    let args = ["--workers-max", "2", "--scaler", "queue-delay=100ms", "--gpus", "0,1"];
    let mut dev = start(WORKER, &args);
    let client = Client::of(&mut dev).await;
    let first = dev.line("life ").await;
    client.send("run", Some(r#"{"input": 1}"#)).await;
    client.take(name(&first)).await;
    client.send("run", Some(r#"{"input": 2}"#)).await;
    let second = dev.line("life ").await;
    assert!(first.ends_with(" 0") && second.ends_with(" 1"), "{first}, {second}");
    client.take(name(&second)).await;
    client.health("workers", "running", 2).await;
}

#[tokio::test]
async fn a_worker_that_keeps_dying_is_unhealthy() {
    let mut dev = start("exit 1", &[]);
    let client = Client::of(&mut dev).await;
    client.health("workers", "unhealthy", 1).await;
}

#[tokio::test]
async fn a_scripted_fault_ends_the_worker_and_its_job_goes_to_the_next_one() {
    let mut dev = start(WORKER, &[]);
    let client = Client::of(&mut dev).await;
    let first = dev.line("life ").await;
    let url = format!("{}/run", client.base);
    let faults = r#"[{on = "worker", kind = "kill", after = "50ms", times = 1}]"#;
    let request = client.http.post(url).body(r#"{"input": 1}"#).header("X-Runpod-Faults", faults);
    timeout(SOON, request.send()).await.unwrap().unwrap().error_for_status().unwrap();
    let job = client.take(name(&first)).await;
    let second = dev.line("life ").await;
    assert_eq!(client.take(name(&second)).await, job);
    client.health("jobs", "retried", 1).await;
}

#[tokio::test]
async fn endpoints_in_a_file_have_workers_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("endpoints.toml");
    std::fs::write(&config, "only_these = true\n[[endpoint]]\nid = \"other\"\nhandler = [\"./h\"]\nworkers_max = 1\n")
        .unwrap();
    let mut dev = start(r#"echo "at $RUNPOD_WEBHOOK_GET_JOB"; IDLE"#, &["--config", config.to_str().unwrap()]);
    let mut urls = [dev.line("at ").await, dev.line("at ").await];
    urls.sort();
    assert!(urls[0].contains("/v2/local/") && urls[1].contains("/v2/other/"), "{urls:?}");
}
