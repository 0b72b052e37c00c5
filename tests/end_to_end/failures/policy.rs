//! `policy.executionTimeout`: what a client grants a job, its worker enforces and its endpoint accounts for.

use end_to_end_tests::{Client, Endpoint, Stack, Worker, WorkerOptions, binary};
use serde_json::{Value, json};

/// The shortest that the platform allows.
const TIMEOUT_MS: u64 = 5000;

async fn run(client: &Client, input: Value) -> Value {
    let request = json!({"input": input, "policy": {"executionTimeout": TIMEOUT_MS}});
    let id = client.submit_request(request).await;
    client.finished(&id).await
}

/// The one series that starts like this.
fn sample(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series} in\n{metrics}")).trim().parse().unwrap()
}

/// What the endpoint counts at its root.
async fn endpoint_metrics(endpoint: &Endpoint) -> String {
    let url = endpoint.base.replace("/v2", "/metrics");
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_gets_the_time_that_its_client_grants_and_no_more() {
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(&["--job-timeout", "1s"])).await;
    let granted = run(&stack.client, json!({"do": "sleep_ms", "ms": 2000})).await;
    assert_eq!(granted["status"], "COMPLETED", "{granted}");

    let late = run(&stack.client, json!({"do": "check_cancel"})).await;
    assert_eq!(super::error(&late)["error_type"], "timeout");
    let took = late["executionTime"].as_u64().unwrap();
    assert!((TIMEOUT_MS..TIMEOUT_MS + 5000).contains(&took), "{late}");

    assert_eq!(stack.worker.health().await["worker"]["jobs"]["timedOut"], 1);
    let metrics = stack.worker.metrics().await;
    assert_eq!(sample(&metrics, r#"runpod_jobs_total{status="timed_out"}"#), 1.0);
    let metrics = endpoint_metrics(&stack.endpoint).await;
    assert_eq!(sample(&metrics, r#"runpod_endpoint_execution_timeouts_total{endpoint="test"}"#), 1.0);
    assert_eq!(sample(&metrics, r#"runpod_endpoint_jobs_total{endpoint="test",status="failed"}"#), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_has_its_own_state_where_that_is_asked_for() {
    let endpoint = Endpoint::start(&["--report-timed-out"]).await;
    let options = WorkerOptions::flags(&["--cancel-grace", "200ms"]);
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), options);
    worker.ready().await;
    let client = endpoint.client();

    let late = run(&client, json!({"do": "ignore_cancel"})).await;
    assert_eq!(late["status"], "TIMED_OUT", "{late}");
    let error: Value = serde_json::from_str(late["error"].as_str().unwrap()).unwrap();
    assert_eq!(error["error_type"], "timeout");
    assert_eq!(client.health().await["jobs"]["failed"], 1);
    let metrics = endpoint_metrics(&endpoint).await;
    assert_eq!(sample(&metrics, r#"runpod_endpoint_jobs_total{endpoint="test",status="timed_out"}"#), 1.0);
    assert_eq!(sample(&metrics, r#"runpod_endpoint_execution_timeouts_total{endpoint="test"}"#), 1.0);
    assert_eq!(worker.health().await["worker"]["jobs"]["timedOut"], 1);
}
