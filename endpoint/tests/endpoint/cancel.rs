//! `/cancel`, `/retry`, `/purge-queue` and the stop channel.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::Api;

#[tokio::test(start_paused = true)]
async fn a_job_cancelled_in_the_queue_is_never_delivered() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let reply = api.post(&format!("cancel/{id}"), "").await;
    assert_eq!(reply.text, format!(r#"{{"id":"{id}","status":"CANCELLED"}}"#));
    assert_eq!(api.take("w1").await, "");
    assert_eq!(api.get(&format!("status/{id}")).await.text, reply.text);
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_running_job_stops_its_worker_once() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    let cancel = async {
        sleep(Duration::from_secs(3)).await;
        api.post(&format!("cancel/{id}"), "{}").await.field("status")
    };
    let started = Instant::now();
    let (stop, status) = tokio::join!(api.get("job-stop/w1?gpu=LOCAL"), cancel);
    assert_eq!((stop.text, status), (format!(r#"{{"jobsToStop":["{id}"]}}"#), "CANCELLED".to_owned()));
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(api.get("job-stop/w1").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.done("w1", &id, r#"{"output": 1}"#).await.status, StatusCode::OK);
    assert_eq!(api.state(&id).await, "CANCELLED");
}

#[tokio::test(start_paused = true)]
async fn a_stop_signal_waits_for_its_worker_and_ends_with_the_job() {
    let api = Api::new();
    let ids = [api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await];
    for id in &ids {
        api.take("w1").await;
        api.post(&format!("cancel/{id}"), "").await;
    }
    sleep(Duration::from_secs(100)).await;
    api.done("w1", &ids[0], "{}").await;
    assert_eq!(api.get("job-stop/w2").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get("job-stop/w1").await.json(), json!({"jobsToStop": [ids[1]]}));
}

#[tokio::test(start_paused = true)]
async fn a_stop_signal_that_a_worker_ignores_is_repeated() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.post(&format!("cancel/{id}"), "").await;
    let stops = json!({"jobsToStop": [id]});
    for _ in 0..3 {
        assert_eq!(api.get("job-stop/w1").await.json(), stops);
        // The official worker's first heartbeat after a take may not name the job yet.
        api.ping("w1", "").await;
        api.ping("w1", &id).await;
        assert_eq!(api.get("job-stop/w1").await.status, StatusCode::NO_CONTENT, "it may be stopping right now");
        api.ping("w1", &id).await;
    }
    assert_eq!(api.get("job-stop/w1").await.json(), stops);
    api.done("w1", &id, "{}").await;
    api.ping("w1", &id).await;
    api.ping("w1", &id).await;
    assert_eq!(api.get("job-stop/w1").await.status, StatusCode::NO_CONTENT, "its result came");
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_cannot_be_cancelled() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.done("w1", &id, r#"{"output": 1}"#).await;
    let reply = api.post(&format!("cancel/{id}"), "").await;
    assert_eq!((reply.status, reply.field("status")), (StatusCode::OK, "COMPLETED".to_owned()));
    assert_eq!(api.status(&id).await["output"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_job_can_be_retried_with_its_id_and_input() {
    let api = Api::new();
    let id = api.run(r#"{"input": {"n": 1}}"#).await;
    for status in ["IN_QUEUE", "IN_PROGRESS"] {
        let reply = api.post(&format!("retry/{id}"), "").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.field("error").contains(status), "{}", reply.text);
        if status == "IN_QUEUE" {
            api.take("w1").await;
        }
    }
    api.done("w1", &id, r#"{"error": "no", "output": 1}"#).await;
    let reply = api.post(&format!("retry/{id}"), "").await;
    assert_eq!(reply.text, format!(r#"{{"id":"{id}","status":"IN_QUEUE"}}"#));
    assert_eq!(api.get(&format!("status/{id}")).await.text, reply.text, "output and error are gone");
    assert_eq!(api.get("job-take/w2").await.json(), json!({"id": id, "input": {"n": 1}}));
    api.done("w2", &id, r#"{"output": 2}"#).await;
    assert_eq!(api.status(&id).await["output"], 2);
}

#[tokio::test(start_paused = true)]
async fn purging_removes_waiting_jobs_only() {
    let api = Api::new();
    let running = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    let waiting = [api.run(r#"{"input": 2}"#).await, api.run(r#"{"input": 3}"#).await];
    assert_eq!(api.post("purge-queue", "").await.text, r#"{"removed":2,"status":"completed"}"#);
    assert_eq!(api.post("purge-queue", "{}").await.json()["removed"], 0);
    assert_eq!(api.state(&running).await, "IN_PROGRESS");
    assert_eq!(api.state(&waiting[0]).await, "CANCELLED");
    assert_eq!(api.take("w2").await, "");
}

#[tokio::test(start_paused = true)]
async fn pending_requests_are_listed() {
    let api = Api::new();
    let ids = [api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 2}"#).await];
    api.take("w1").await;
    let listed = api.get("requests").await.json();
    let listed: Vec<_> =
        listed["requests"].as_array().unwrap().iter().map(|job| (&job["id"], &job["status"])).collect();
    assert_eq!(listed, [(&json!(ids[1]), &json!("IN_QUEUE")), (&json!(ids[0]), &json!("IN_PROGRESS"))]);
}
