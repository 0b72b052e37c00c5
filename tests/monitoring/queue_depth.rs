//! Rules as others write them, for the depth of the queue, in a real Prometheus.

use end_to_end_tests::{Endpoint, Worker, WorkerOptions, binary, eventually};
use serde_json::json;

use crate::stack::Prometheus;

const RULES: &str = r#"
groups:
  - name: of others
    rules:
      - alert: DeepQueue
        expr: runpod_queue_depth > 50
      - alert: DeepModelQueue
        expr: job_queue_depth{model="puppet-handler", version=~"[0-9].*"} > 100
      - alert: SumOfAll
        expr: sum(runpod_queue_depth) > 104
"#;

/// Nothing listens there: only Prometheus is looked at.
const NO_ALERTMANAGER: &str = "127.0.0.1:9";

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_the_depth_of_the_queue_fire_whoever_holds_the_jobs() {
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("puppet-handler"), WorkerOptions::flags(&["--prefetch", "4"]));
    worker.ready().await;
    let prometheus = Prometheus::start_with(&[&worker.http], &endpoint.base, NO_ALERTMANAGER, RULES).await;
    // The endpoint knows the model before the first job.
    let known = "job_queue_depth{endpoint!=\"\", model=\"puppet-handler\"} == 0";
    prometheus.has_answer("the model at the endpoint", known).await;
    for alert in ["DeepQueue", "DeepModelQueue", "SumOfAll"] {
        prometheus.is_over(alert).await;
    }

    // One job runs, four wait in the worker, and the others at the endpoint.
    let gate = endpoint.folder().join("gate");
    let client = endpoint.client();
    for _ in 0..106 {
        client.submit(json!({"do": "wait_for", "path": gate})).await;
    }
    eventually("the worker to take its share", || async {
        (client.health().await["jobs"]["inProgress"] == 5).then_some(())
    })
    .await;
    prometheus.fires_at(&endpoint.base, "DeepQueue").await;
    prometheus.fires_at(&endpoint.base, "DeepModelQueue").await;
    prometheus.fires("SumOfAll").await;
    for (query, depth) in [
        ("sum(runpod_queue_depth)", 105),
        ("sum(runpod_queue_depth{endpoint=\"\"})", 4),
        ("sum(runpod_queue_depth{endpoint!=\"\"})", 101),
        ("sum by (model, version) (job_queue_depth)", 105),
    ] {
        prometheus.has_answer(query, &format!("{query} == {depth}")).await;
    }

    std::fs::write(gate, "").unwrap();
    for alert in ["DeepQueue", "DeepModelQueue", "SumOfAll"] {
        prometheus.is_over(alert).await;
    }
}
