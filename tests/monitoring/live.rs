//! A real Prometheus looks at a worker and an endpoint on a mixed day.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{
    Client, Endpoint, FakeNvml, Receiver, Worker, WorkerOptions, binary, eventually, free_port, worker_env,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stack::{Alertmanager, Prometheus, shipped};

/// A GPU that is slowed down and has little to do.
const GPU: &str = "\
count 1
0.uuid GPU-aa11
0.utilization 5
0.memory_used 6442450944
0.memory_total 25769803776
0.power 71500
0.temperature 66
0.throttle 0x4
";

/// A worker that gives a job 300 ms, does not wait for stubborn ones, and knows its price.
fn worker(endpoint: &Endpoint, address: &str) -> Worker {
    let flags = ["--job-timeout", "300ms", "--cancel-grace", "200ms", "--price-per-hour", "3.6"];
    let options = WorkerOptions { http_bind: Some(address.to_owned()), ..WorkerOptions::flags(&flags) };
    Worker::start(endpoint, &binary("puppet-handler"), options)
}

/// A worker of another endpoint, with a GPU, that has run a job there.
async fn gpu_worker(endpoint: &Endpoint, nvml: &FakeNvml) -> Worker {
    let base = format!("{}/gpu", endpoint.base);
    let options = nvml.options().env("PUPPET_START", "raw_on_gpu");
    let worker = Worker::start_with(worker_env(&base, "gpu-1"), &binary("puppet-handler"), options);
    worker.ready().await;
    Client::new(&base).run(json!({})).await;
    worker
}

/// A worker of another endpoint that runs batches, and has run one.
async fn batch_worker(endpoint: &Endpoint) -> Worker {
    let base = format!("{}/batch", endpoint.base);
    let options = WorkerOptions::default().env("PUPPET_BATCH", "1");
    let worker = Worker::start_with(worker_env(&base, "batch-1"), &binary("puppet-handler"), options);
    worker.ready().await;
    Client::new(&base).run(json!({"do": "ok"})).await;
    worker
}

/// Good, bad, overdue, out of memory, unknown, cancelled, crashing.
async fn mixed_load(client: &Client) {
    for _ in 0..2 {
        for (input, state) in [
            (json!({"do": "ok"}), "COMPLETED"),
            (json!({"do": "error"}), "FAILED"),
            (json!({"do": "check_cancel"}), "FAILED"),
            (json!({"do": "oom_text"}), "FAILED"),
            (json!({"do": "unknown_model"}), "FAILED"),
            (json!({"do": "segv"}), "FAILED"),
        ] {
            assert_eq!(client.run(input.clone()).await["status"], state, "{input}");
        }
    }
    // Cancelled before its deadline, or else ended by it and tried again.
    eventually("a job to be cancelled while it runs", || async {
        let id = client.submit(json!({"do": "check_cancel"})).await;
        client.reaches(&id, "IN_PROGRESS").await;
        client.cancel(&id).await;
        (client.finished(&id).await["status"] == "CANCELLED").then_some(())
    })
    .await;
}

/// Keeps jobs coming until it is dropped, so that rates have something to be rates of.
pub(crate) struct Traffic(tokio::task::JoinHandle<()>);

impl Traffic {
    pub(crate) fn of(client: &Client, input: Value) -> Self {
        let client = client.clone();
        Self(tokio::spawn(async move {
            loop {
                client.run(input.clone()).await;
            }
        }))
    }
}

/// Requests to a load-balancing endpoint at this address.
fn requests(balancer: &str) -> Traffic {
    let url = format!("http://{balancer}/ping");
    Traffic(tokio::spawn(async move {
        loop {
            let _ = reqwest::get(&url).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }))
}

/// The settings of a load-balancing endpoint at this address, and of one with an overflow.
fn endpoints(folder: &Path, balancer: &str) -> String {
    let (file, handler) = (folder.join("endpoints.toml"), binary("puppet-handler"));
    let lb = format!("[[endpoint]]\nid = \"lb\"\nhandler = [{handler:?}]\nload_balancer = {{ bind = {balancer:?} }}\n");
    let late = "[[endpoint]]\nid = \"late\"\noverflow = { url = \"http://127.0.0.1:9/v2/far\", after = \"1h\" }\n";
    std::fs::write(&file, lb + late).unwrap();
    file.to_string_lossy().into_owned()
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn targets(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().cloned().unwrap_or_default();
    targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// Each metric of a query, with its selector.
pub(crate) fn selectors(query: &str) -> BTreeSet<String> {
    const FAMILIES: [&str; 6] = ["runpod_", "runpod:", "inference_", "executor_", "job_queue_depth", "up{"];
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut found = BTreeSet::new();
    let mut rest = query;
    while let Some(begin) = rest.find(is_name) {
        rest = &rest[begin..];
        let name = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let mut end = name;
        if rest[name..].starts_with('{') {
            end += rest[name..].find('}').unwrap() + 1;
        }
        if FAMILIES.iter().any(|family| rest.starts_with(family)) {
            found.insert(rest[..end].to_owned());
        }
        rest = &rest[end..];
    }
    found
}

/// The panels of the dashboard, each with its queries.
pub(crate) fn panels() -> Vec<(String, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&shipped("grafana/dashboards/runpod.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().map(|panel| (panel["title"].to_string(), targets(panel))).collect()
}

/// Whether a query is about a database. This endpoint has none.
pub(crate) fn is_of_database(query: &str) -> bool {
    query.contains("runpod_endpoint_database_")
}

#[test]
fn selectors_are_found() {
    let query = "sum by (job) (rate(runpod_jobs_total{status=~\"a|b\"}[5m])) / up{job=~\"x\"} > runpod:p99";
    let expected = ["runpod:p99", "runpod_jobs_total{status=~\"a|b\"}", "up{job=~\"x\"}"];
    assert_eq!(selectors(query).iter().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_has_data_and_alerts_start_and_end() {
    let receiver = Receiver::start().await;
    let alertmanager = Alertmanager::start(&receiver.url).await;
    let (folder, balancer) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{}", free_port()));
    let config = endpoints(folder.path(), &balancer);
    // A worker that is silent for 5 s counts as gone.
    let endpoint = Endpoint::start(&["--lease", "5s", "--worker-http-port", "0", "--config", &config]).await;
    let address = format!("127.0.0.1:{}", free_port());
    let mut first = worker(&endpoint, &address);
    first.ready().await;
    let client = endpoint.client();
    let nvml = FakeNvml::reporting(GPU);
    let with_gpu = gpu_worker(&endpoint, &nvml).await;
    let in_batches = batch_worker(&endpoint).await;
    let prometheus =
        Prometheus::start(&[&first.http, &with_gpu.http, &in_batches.http], &endpoint.base, &alertmanager.address)
            .await;

    mixed_load(&client).await;
    {
        let _good = Traffic::of(&client, json!({"do": "ok"}));
        let _bad = Traffic::of(&client, json!({"do": "error"}));
        let _requests = requests(&balancer);
        let _batches = Traffic::of(&Client::new(&format!("{}/batch", endpoint.base)), json!({"do": "ok"}));
        every_dashboard_query_has_data(&prometheus).await;
        every_rule_finds_its_metrics(&prometheus).await;
        prometheus.fires("RunpodFailureRate").await;
        let told = receiver.gets("/critical", "the pager", |body| names(body, "RunpodFailureRate", "firing")).await;
        let annotations = &told["alerts"][0]["annotations"];
        assert_eq!(annotations["runbook_url"], "docs/operations.md#failure_rate");
    }
    {
        let _good = Traffic::of(&client, json!({"do": "ok"}));
        prometheus.is_over("RunpodFailureRate").await;
        receiver.gets("/critical", "the end", |body| names(body, "RunpodFailureRate", "resolved")).await;
    }
    overdue_jobs(&prometheus, &client).await;
    crashes(&prometheus, &client).await;

    // Without its only worker the endpoint's jobs wait.
    first.daemon.signal(Signal::KILL);
    first.daemon.wait(Duration::from_secs(10));
    for _ in 0..101 {
        client.submit(json!({"do": "ok"})).await;
    }
    const ALONE: [&str; 5] =
        ["RunpodTargetDown", "RunpodQueueDepth", "RunpodNoIdleWorker", "RunpodGpuUnderused", "RunpodWorkerLost"];
    for alert in ALONE {
        prometheus.fires(alert).await;
    }
    let _second = worker(&endpoint, &address);
    for alert in ALONE {
        prometheus.is_over(alert).await;
    }
}

/// A message of Alertmanager about this alert in this state.
fn names(body: &Value, alert: &str, status: &str) -> bool {
    let alerts = body["alerts"].as_array().cloned().unwrap_or_default();
    alerts.iter().any(|one| one["labels"]["alertname"] == alert && one["status"] == status)
}

pub(crate) async fn has_data(prometheus: &Prometheus, what: &str, query: &str) {
    let look = || async { (!prometheus.query(query).await.is_empty()).then_some(()) };
    eventually(&format!("data of {what}: {query}"), look).await;
}

async fn every_dashboard_query_has_data(prometheus: &Prometheus) {
    let mut queried = 0;
    for (panel, queries) in panels() {
        for query in queries.into_iter().filter(|query| !is_of_database(query)) {
            queried += 1;
            has_data(prometheus, &panel, &query).await;
        }
    }
    assert!(queried > 30, "the dashboard is elsewhere");
    let keda = shipped("keda.yml");
    let query = keda.lines().find_map(|line| line.trim().strip_prefix("query: ")).unwrap();
    has_data(prometheus, "keda.yml", &query.replace("\"local\"", "\"test\"")).await;
}

/// An alert has data only when it fires; what it is made of must always be there.
async fn every_rule_finds_its_metrics(prometheus: &Prometheus) {
    let rules = prometheus.rules().await;
    assert!(rules.len() > 15, "{} rules", rules.len());
    for rule in rules {
        let query = rule["query"].as_str().unwrap();
        assert_eq!(rule["health"], "ok", "{rule}");
        for selector in selectors(query).iter().filter(|selector| !is_of_database(selector)) {
            has_data(prometheus, &rule["name"].to_string(), selector).await;
        }
    }
}

async fn overdue_jobs(prometheus: &Prometheus, client: &Client) {
    let overdue = Traffic::of(client, json!({"do": "check_cancel"}));
    prometheus.fires("RunpodTimeoutSpike").await;
    drop(overdue);
    prometheus.is_over("RunpodTimeoutSpike").await;
}

/// Two crashes of the mixed load and one more: the worker bears four in ten minutes.
async fn crashes(prometheus: &Prometheus, client: &Client) {
    prometheus.is_over("RunpodCrashLoop").await;
    for _ in 0..2 {
        client.run(json!({"do": "segv"})).await;
    }
    prometheus.fires("RunpodCrashLoop").await;
    prometheus.is_over("RunpodCrashLoop").await;
}
