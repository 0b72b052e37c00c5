//! job-done: how result bodies are understood.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{Api, Reply};

/// Runs one job that ends with `body`; the reply to the worker and the final document.
async fn finish(body: &str) -> (Reply, Value) {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    let reply = api.done("w1", &id, body).await;
    (reply, api.status(&id).await)
}

#[tokio::test(start_paused = true)]
async fn bodies_decide_between_completed_and_failed() {
    let cases = [
        (r#"{"output": {"a": 1}}"#, json!({"status": "COMPLETED", "output": {"a": 1}})),
        (r#"{"output": null}"#, json!({"status": "COMPLETED", "output": null})),
        ("{}", json!({"status": "COMPLETED"})),
        (r#"{"output": 1, "error": ""}"#, json!({"status": "COMPLETED", "output": 1})),
        (r#"{"output": 1, "error": null}"#, json!({"status": "COMPLETED", "output": 1})),
        (r#"{"output": 1, "status": 200}"#, json!({"status": "COMPLETED", "output": 1})),
        (r#"{"error": "bad"}"#, json!({"status": "FAILED", "error": "bad"})),
        (r#"{"error": "bad", "output": [1]}"#, json!({"status": "FAILED", "error": "bad", "output": [1]})),
        (r#"{"error": {"code": 5}}"#, json!({"status": "FAILED", "error": "{\"code\":5}"})),
        (r#"{"output": [NaN, -Infinity, "NaN"]}"#, json!({"status": "COMPLETED", "output": [null, null, "NaN"]})),
        (r#"{"output": []}"#, json!({"status": "COMPLETED", "output": []})),
    ];
    for (body, expected) in cases {
        let (reply, mut document) = finish(body).await;
        assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, "{}"), "{body}");
        for timing in ["id", "delayTime", "executionTime", "workerId"] {
            assert!(document.as_object_mut().unwrap().remove(timing).is_some(), "{body}: no {timing}");
        }
        assert_eq!(document, expected, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_job_has_cost_stands_beside_its_output() {
    let (_, document) = finish(r#"{"output": 7, "cost": {"gpuSeconds": 1.5, "dollars": 0.01}}"#).await;
    assert_eq!(document["cost"], json!({"gpuSeconds": 1.5, "dollars": 0.01}));
    let (_, document) = finish(r#"{"error": "bad", "cost": {"gpuSeconds": 1.5}}"#).await;
    assert_eq!((&document["status"], &document["cost"]), (&json!("FAILED"), &json!({"gpuSeconds": 1.5})));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_read_fails_the_job_at_once() {
    for body in [r#"{"output": "#, "", "[1]"] {
        let (reply, document) = finish(body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(document["status"], "FAILED");
        assert!(document["error"].as_str().unwrap().contains("not JSON"), "{document}");
    }
    let (reply, document) = finish(&format!(r#"{{"output": "{}"}}"#, "x".repeat(1 << 20))).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    let expected =
        "the result of 1.0 MiB is larger than the limit of 1 MiB; return less, or upload it and return its address";
    assert_eq!(document["error"], expected);
}

#[tokio::test(start_paused = true)]
async fn the_declared_media_type_does_not_matter() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    let request = Request::post(format!("/v2/ep/job-done/w1/{id}?gpu=LOCAL&isStream=false"))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("charset", "utf-8")
        .body(Body::from(r#"{"output": "ü&=%20"}"#));
    api.send(request.unwrap()).await;
    assert_eq!(api.status(&id).await["output"], "ü&=%20");
}

#[tokio::test(start_paused = true)]
async fn progress_shows_as_output_and_never_ends_a_job() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    for percent in [10, 40] {
        api.done("w1", &id, &format!(r#"{{"status": "IN_PROGRESS", "output": {{"pct": {percent}}}}}"#)).await;
    }
    let running = api.status(&id).await;
    assert_eq!((&running["status"], &running["output"]), (&json!("IN_PROGRESS"), &json!({"pct": 40})));
    api.done("w1", &id, "{}").await;
    let late = api.done("w1", &id, r#"{"status": "IN_PROGRESS", "output": 99}"#).await;
    assert_eq!(late.status, StatusCode::OK);
    let finished = api.status(&id).await;
    assert_eq!((&finished["status"], finished.get("output")), (&json!("COMPLETED"), None));
}

#[tokio::test(start_paused = true)]
async fn the_first_result_wins_and_later_ones_are_acknowledged() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.done("w1", &id, r#"{"output": "first"}"#).await;
    for body in [r#"{"output": "second"}"#, r#"{"error": "late"}"#] {
        assert_eq!(api.done("w1", &id, body).await.status, StatusCode::OK);
    }
    let document = api.status(&id).await;
    assert_eq!((&document["status"], &document["output"]), (&json!("COMPLETED"), &json!("first")));
    assert_eq!(api.get("health").await.json()["jobs"]["completed"], 1);
}

#[tokio::test(start_paused = true)]
async fn results_of_unknown_and_untaken_jobs_are_acknowledged_and_dropped() {
    let api = Api::new();
    assert_eq!(api.done("w1", "unknown", r#"{"output": 1}"#).await.status, StatusCode::OK);
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.done("w1", &id, r#"{"output": 1}"#).await.status, StatusCode::OK);
    assert_eq!(api.state(&id).await, "IN_QUEUE");
}
