//! `/run`, `/runsync`, `/status`: what goes in, what comes out.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Instant, advance};

use crate::support::Api;

#[tokio::test(start_paused = true)]
async fn run_answers_before_any_worker_exists() {
    let reply = Api::new().post("run", r#"{"input": {"n": 1}}"#).await;
    assert_eq!(reply.status, StatusCode::OK);
    let id = reply.field("id");
    assert_eq!(reply.text, format!(r#"{{"id":"{id}","status":"IN_QUEUE"}}"#));
    assert!(id.ends_with("-u1") && id.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-'), "{id}");
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_input_is_refused() {
    let api = Api::new();
    for body in ["", "x", "[]", "[1]", "1", "{}", r#"{"inputs": 1}"#] {
        let reply = api.post("run", body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(reply.json()["status"], 400);
        assert!(reply.field("error").contains("input"), "{}", reply.text);
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0);
}

#[tokio::test(start_paused = true)]
async fn payloads_pass_through_byte_by_byte() {
    let api = Api::new();
    let input = r#"{ "b": 1.50, "a":[1e3 ,2], "text":"\u00fc ü", "big":123456789012345678901234567890 }"#;
    let id = api.run(&format!(r#"{{"webhook": "https://example.org", "x": 1, "input": {input}}}"#)).await;
    let job = api.get("job-take/w1?gpu=LOCAL").await;
    assert_eq!(job.text, format!(r#"{{"id":"{id}","input":{input}}}"#));
    api.done("w1", &id, &format!(r#"{{"output": {input}}}"#)).await;
    let document = api.get(&format!("status/{id}")).await.text;
    assert!(document.contains(&format!(r#""output":{input},"#)), "{document}");
}

#[tokio::test(start_paused = true)]
async fn id_and_input_are_always_delivered() {
    let api = Api::new();
    for input in ["{}", "null", "[]"] {
        let id = api.run(&format!(r#"{{"input": {input}}}"#)).await;
        assert_eq!(api.get("job-take/w1").await.text, format!(r#"{{"id":"{id}","input":{input}}}"#));
    }
}

#[tokio::test(start_paused = true)]
async fn bucket_credentials_reach_the_worker() {
    let api = Api::new();
    api.run(r#"{"input": 1, "webhookV2": "x", "policy": {"ttl": 60000}, "s3Config": {"bucketName": "b"}}"#).await;
    let job = api.get("job-take/w1").await.json();
    assert_eq!(job["s3Config"], json!({"bucketName": "b"}));
    assert_eq!(job.as_object().unwrap().len(), 3);
}

/// One that nobody has limited is for the worker's own limit.
#[tokio::test(start_paused = true)]
async fn a_worker_is_told_of_an_execution_timeout_that_somebody_has_set() {
    let api = Api::new();
    for timeout in ["5000", "600000", "7200000"] {
        api.run(&format!(r#"{{"input": 1, "policy": {{"executionTimeout": {timeout}}}}}"#)).await;
        assert_eq!(
            api.get("job-take/w1").await.json()["policy"].to_string(),
            format!(r#"{{"executionTimeout":{timeout}}}"#)
        );
    }
    for unlimited in [r#"{"input": 1}"#, r#"{"input": 1, "policy": {"executionTimeout": null, "ttl": 60000}}"#] {
        api.run(unlimited).await;
        assert_eq!(api.get("job-take/w1").await.json().get("policy"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_is_no_address_any_more_is_refused() {
    let api = Api::new();
    let body = |bytes: usize| {
        json!({"input": 1, "webhook": format!("https://example.org/{}", "w".repeat(bytes - 20))}).to_string()
    };
    api.run(&body(8 << 10)).await;
    let reply = api.post("run", body((8 << 10) + 1)).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.field("error"), "`webhook` is longer than 8 KiB; give a shorter URL");
}

#[tokio::test(start_paused = true)]
async fn documents_have_all_fields_in_alphabetical_order() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    advance(Duration::from_millis(512)).await;
    api.take("w1").await;
    let running = api.get(&format!("status/{id}")).await.text;
    assert_eq!(running, format!(r#"{{"delayTime":512,"id":"{id}","status":"IN_PROGRESS","workerId":"w1"}}"#));
    advance(Duration::from_millis(104)).await;
    api.done("w1", &id, r#"{"output": [1], "error": "bad input"}"#).await;
    let failed = format!(
        r#"{{"delayTime":512,"error":"bad input","executionTime":104,"id":"{id}","output":[1],"status":"FAILED","workerId":"w1"}}"#
    );
    for method in [Method::GET, Method::POST] {
        let path = format!("/v2/ep/status/{id}");
        let request = axum::http::Request::builder().method(method).uri(path).body(axum::body::Body::empty());
        assert_eq!(api.send(request.unwrap()).await.text, failed);
    }
    assert_eq!(api.post(&format!("status-sync/{id}?wait=1000"), "").await.text, failed);
}

#[tokio::test(start_paused = true)]
async fn runsync_answers_as_soon_as_the_job_has_ended() {
    for (result, status) in [(r#"{"output": 7}"#, "COMPLETED"), (r#"{"error": "no"}"#, "FAILED")] {
        let api = Api::new();
        let started = Instant::now();
        let work = async {
            let id = api.take("w1").await;
            api.done("w1", &id, result).await;
            id
        };
        let (reply, id) = tokio::join!(api.post("runsync", r#"{"input": 1}"#), work);
        assert!(id.starts_with("sync-"), "{id}");
        assert_eq!((reply.status, reply.field("status")), (StatusCode::OK, status.to_owned()));
        assert_eq!(reply.field("workerId"), "w1");
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn runsync_hands_over_to_status_when_its_time_is_up() {
    let api = Api::new();
    for (query, seconds) in [("", 90), ("?wait=1500", 1), ("?wait=1000", 1), ("?wait=300000", 300)] {
        let started = Instant::now();
        let reply = api.post(&format!("runsync{query}"), r#"{"input": 1}"#).await;
        assert_eq!(started.elapsed().as_secs(), seconds, "{query}");
        assert_eq!((reply.status, reply.field("status")), (StatusCode::OK, "IN_QUEUE".to_owned()));
        assert_eq!(reply.json().as_object().unwrap().len(), 2);
        let id = api.take("w1").await;
        assert_eq!(id, reply.field("id"));
        api.done("w1", &id, r#"{"output": 7}"#).await;
        assert_eq!(api.state(&id).await, "COMPLETED");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_outside_of_the_platforms_range_is_refused_before_anything_is_queued() {
    let api = Api::new();
    for wait in ["999", "300001", "0", "-1", "1500.5", "1s", "", "99999999999999999999"] {
        let reply = api.post(&format!("runsync?wait={wait}"), r#"{"input": 1}"#).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{wait:?}");
        assert!(reply.field("error").contains("`wait`"), "{}", reply.text);
    }
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0);
    let id = api.run(r#"{"input": 1}"#).await;
    for path in ["status-sync", "stream"] {
        assert_eq!(api.get(&format!("{path}/{id}?wait=999")).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let reply = api.get(&format!("status/{id}?ttl=soon")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.field("error").contains("`ttl`"), "{}", reply.text);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_runsync_does_not_stop_the_job() {
    let api = Api::new();
    let leaving = tokio::time::timeout(Duration::from_secs(1), api.post("runsync", r#"{"input": 1}"#)).await;
    assert!(leaving.is_err());
    let id = api.take("w1").await;
    api.done("w1", &id, r#"{"output": 7}"#).await;
    assert_eq!(api.state(&id).await, "COMPLETED");
}

#[tokio::test(start_paused = true)]
async fn status_sync_waits_for_the_end() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let path = format!("status-sync/{id}?wait=10000");
    let work = async {
        api.take("w1").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        api.done("w1", &id, r#"{"output": 7}"#).await;
    };
    let (reply, ()) = tokio::join!(api.get(&path), work);
    assert_eq!(reply.json()["executionTime"], 3000);
}

#[tokio::test(start_paused = true)]
async fn unknown_jobs_are_not_found() {
    let api = Api::new();
    api.run(r#"{"input": 1}"#).await;
    for path in ["status/no", "status-sync/no", "stream/no", "cancel/no", "retry/no"] {
        let reply = api.post(path, "").await;
        assert_eq!((reply.status, &reply.json()["status"]), (StatusCode::NOT_FOUND, &json!(404)), "{path}");
    }
    assert_eq!(api.get("nonsense").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.get("run").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn no_request_creates_an_endpoint_whose_name_runpod_reserves() {
    let api = Api::new();
    for id in ["serverless", "pods", "flash", "openapi.json", "%70ods"] {
        for (method, path) in
            [("POST", "run"), ("POST", "batch"), ("GET", "job-take/w"), ("POST", "openai/v1/completions")]
        {
            let request = axum::http::Request::builder().method(method).uri(format!("/v2/{id}/{path}"));
            let reply = api.send(request.body(r#"{"input": 1}"#.into()).unwrap()).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{id} {path}");
            assert!(reply.text.contains("RunPod uses this name"), "{}", reply.text);
        }
    }
    assert!(api.app.store.endpoints().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn bodies_have_the_platforms_limits_and_its_answer() {
    let api = Api::new();
    let body = |bytes: usize| format!(r#"{{"input": "{}"}}"#, "x".repeat(bytes - 13));
    assert_eq!(api.post("run", body(10 << 20)).await.status, StatusCode::OK);
    let reply = api.post("run", body((10 << 20) + 1)).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    // The platform's document, and `error` as in all others.
    let text = "bad request: body: exceeded max body size of 10MiB";
    let problem = serde_json::json!({"detail": text, "error": text, "status": 400, "title": "Bad Request"});
    assert_eq!(reply.json(), problem);
    assert_eq!(api.post("runsync?wait=1000", body(20 << 20)).await.status, StatusCode::OK);
    let reply = api.post("runsync?wait=1000", body((20 << 20) + 1)).await;
    assert!(reply.field("detail").contains("20MiB"), "{}", reply.text);
}

#[tokio::test(start_paused = true)]
async fn endpoints_do_not_share_jobs() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let request = axum::http::Request::get(format!("/v2/other/status/{id}")).body(axum::body::Body::empty()).unwrap();
    assert_eq!(api.send(request).await.status, StatusCode::NOT_FOUND);
}
