//! job-stream and `/stream`.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, sleep};

use crate::support::{Api, Reply};

async fn emit(api: &Api, worker: &str, job: &str, item: &str) -> Reply {
    api.post(&format!("job-stream/{worker}/{job}?gpu=LOCAL&isStream=false"), format!(r#"{{"output": {item}}}"#)).await
}

async fn started(api: &Api) -> String {
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.take("w1").await, id);
    id
}

#[tokio::test(start_paused = true)]
async fn each_item_is_read_once_in_order_and_unchanged() {
    let api = Api::new();
    let id = started(&api).await;
    emit(&api, "w1", &id, r#"{"i": 0.50}"#).await;
    emit(&api, "w1", &id, "[NaN]").await;
    let read = api.get(&format!("stream/{id}")).await.text;
    assert_eq!(read, r#"{"status":"IN_PROGRESS","stream":[{"output":{"i": 0.50}},{"output":[null]}]}"#);
    emit(&api, "w1", &id, "\"last\"").await;
    api.done("w1", &id, r#"{"output": []}"#).await;
    let path = format!("stream/{id}");
    assert_eq!(api.post(&path, "").await.text, r#"{"status":"COMPLETED","stream":[{"output":"last"}]}"#);
    assert_eq!(api.get(&path).await.text, r#"{"status":"COMPLETED","stream":[]}"#);
    assert_eq!(api.status(&id).await["output"], serde_json::json!([]));
}

/// The client of version 2.0 throws items away that come with the status FAILED.
#[tokio::test(start_paused = true)]
async fn items_come_before_the_status_of_a_failed_job() {
    let api = Api::new();
    let id = started(&api).await;
    emit(&api, "w1", &id, "1").await;
    emit(&api, "w1", &id, "2").await;
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    let path = format!("stream/{id}");
    let first = api.get(&path).await.json();
    assert_eq!((&first["status"], first["stream"].as_array().unwrap().len()), (&"IN_PROGRESS".into(), 2), "{first}");
    assert_eq!(api.get(&path).await.text, r#"{"status":"FAILED","stream":[]}"#);
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_the_next_item() {
    let api = Api::new();
    let id = started(&api).await;
    let path = format!("stream/{id}?wait=10000");
    let work = async {
        sleep(Duration::from_secs(7)).await;
        emit(&api, "w1", &id, "1").await
    };
    let begun = Instant::now();
    let (read, _) = tokio::join!(api.get(&path), work);
    assert_eq!(read.text, r#"{"status":"IN_PROGRESS","stream":[{"output":1}]}"#);
    assert_eq!(begun.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn an_empty_read_is_held_for_less_than_the_clients_patience() {
    let api = Api::new();
    let (running, queued) = (started(&api).await, api.run(r#"{"input": 1}"#).await);
    for (query, seconds) in [("", 5), ("?wait=1000", 1), ("?wait=20000", 20)] {
        for (id, status) in [(&running, "IN_PROGRESS"), (&queued, "IN_QUEUE")] {
            let begun = Instant::now();
            let read = api.get(&format!("stream/{id}{query}")).await.text;
            assert_eq!(read, format!(r#"{{"status":"{status}","stream":[]}}"#));
            assert_eq!(begun.elapsed().as_secs(), seconds, "{query}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_streams_nothing_ends_its_stream_with_its_result() {
    let api = Api::new();
    let id = started(&api).await;
    let path = format!("stream/{id}");
    let work = async {
        sleep(Duration::from_secs(2)).await;
        api.done("w1", &id, r#"{"error": "no"}"#).await
    };
    let (read, _) = tokio::join!(api.get(&path), work);
    assert_eq!(read.text, r#"{"status":"FAILED","stream":[]}"#);
}

#[tokio::test(start_paused = true)]
async fn late_items_and_items_of_strangers_are_dropped() {
    let api = Api::new();
    let id = started(&api).await;
    assert_eq!(emit(&api, "stranger", &id, "1").await.status, StatusCode::OK);
    api.done("w1", &id, "{}").await;
    assert_eq!(emit(&api, "w1", &id, "2").await.status, StatusCode::OK);
    assert_eq!(api.get(&format!("stream/{id}")).await.text, r#"{"status":"COMPLETED","stream":[]}"#);
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_a_cancelled_job_comes_to_an_end() {
    let api = Api::new();
    let id = started(&api).await;
    emit(&api, "w1", &id, "1").await;
    api.post(&format!("cancel/{id}"), "").await;
    let path = format!("stream/{id}");
    assert_eq!(api.get(&path).await.text, r#"{"status":"CANCELLED","stream":[{"output":1}]}"#);
    assert_eq!(api.get(&path).await.text, r#"{"status":"CANCELLED","stream":[]}"#);
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND, "the Python client would ask for ever");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_comes_cannot_fill_the_memory() {
    let api = Api::new();
    let id = started(&api).await;
    let item = format!("\"{}\"", "x".repeat((1 << 20) - 100));
    for _ in 0..64 {
        assert_eq!(emit(&api, "w1", &id, &item).await.status, StatusCode::OK);
    }
    assert_eq!(emit(&api, "w1", &id, &item).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(api.state(&id).await, "IN_PROGRESS");
    api.get(&format!("stream/{id}")).await;
    assert_eq!(emit(&api, "w1", &id, &item).await.status, StatusCode::OK);
}
