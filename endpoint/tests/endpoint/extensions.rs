//! The extensions of the worker API: hand-back, goodbye, and one process for each worker id. `monitoring.rs` tests the model.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use runpod_endpoint::api::{KeySet, Keys, Secret};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Api, Reply};

/// A request of the process `instance`.
async fn from_process(api: &Api, method: &str, path: &str, instance: &str, body: &'static str) -> Reply {
    let request = Request::builder().method(method).uri(format!("/v2/ep/{path}"));
    api.send(request.header("x-runpod-worker-instance", instance).body(body.into()).unwrap()).await
}

async fn headers_of(api: &Api, path: &str) -> (StatusCode, HeaderMap) {
    use tower::ServiceExt;
    let request = Request::get(format!("/v2/ep/{path}")).body(Body::empty()).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, headers)
}

async fn workers(api: &Api) -> Value {
    api.get("health").await.json()["workers"].clone()
}

#[tokio::test(start_paused = true)]
async fn every_answer_of_the_worker_api_announces_the_extensions_and_no_other_does() {
    let keys = Keys { worker: KeySet::new([Secret::from("k")]), ..Keys::default() };
    let (open, closed) = (Api::new(), Api::with(keys));
    for (api, path, status) in [
        (&open, "job-take/w", StatusCode::NO_CONTENT),
        (&open, "job-stop/w", StatusCode::NO_CONTENT),
        (&open, "ping/w", StatusCode::OK),
        (&closed, "ping/w", StatusCode::UNAUTHORIZED),
    ] {
        let (got, headers) = headers_of(api, path).await;
        assert_eq!(got, status, "{path}");
        assert_eq!(headers["x-runpod-endpoint-extensions"], "hand-back, goodbye, instance, model", "{path}");
    }
    assert!(!headers_of(&open, "health").await.1.contains_key("x-runpod-endpoint-extensions"));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_handed_back_runs_at_once_elsewhere_and_keeps_its_retry() {
    let api = Api::new();
    api.ping("w1", "").await;
    let id = api.run(r#"{"input": 1}"#).await;
    let started = Instant::now();
    for round in 0..5 {
        let worker = format!("w{round}");
        assert_eq!(api.take(&worker).await, id, "round {round}");
        let body = json!({"jobs": [id, "unknown"]}).to_string();
        for expected in [1, 0] {
            let reply = api.post(&format!("hand-back/{worker}?gpu=LOCAL"), body.clone()).await;
            assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!({"handedBack": expected})));
        }
        assert_eq!(api.state(&id).await, "IN_QUEUE");
        assert_eq!(api.post(&format!("goodbye/{worker}"), "").await.json(), json!({}));
    }
    assert!(started.elapsed() < Duration::from_secs(1), "no lease was waited for");
    assert_eq!(api.take("last").await, id);
    api.done("last", &id, r#"{"output": 1}"#).await;
    let document = api.status(&id).await;
    assert_eq!((&document["status"], document.get("retries")), (&json!("COMPLETED"), None));
}

#[tokio::test(start_paused = true)]
async fn a_hand_back_that_is_not_understood_is_refused() {
    let api = Api::new();
    let many = json!({"jobs": vec!["id"; 1001]}).to_string();
    for body in ["", "{}", "[]", r#"{"jobs": "id"}"#, &many] {
        assert_eq!(api.post("hand-back/w1", body.to_owned()).await.status, StatusCode::BAD_REQUEST, "{body:.40}");
    }
    assert_eq!(api.get("hand-back/w1").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_said_goodbye_is_counted_nowhere_at_any_time() {
    let api = Api::new();
    for worker in ["w1", "w2"] {
        api.ping(worker, "").await;
        api.take(worker).await;
    }
    api.post("goodbye/w1", "{}").await;
    assert_eq!(workers(&api).await["idle"], 1);
    sleep(Duration::from_secs(60)).await;
    let health = api.app.store.health("ep").await.unwrap().workers;
    assert_eq!((health.lost, health.unhealthy, health.idle), (1, 0, 0), "w2 vanished, w1 left");
    let all = workers(&api).await;
    assert!(all.as_object().unwrap().values().all(|count| *count == json!(0)), "{all}");
    api.ping("w1", "").await;
    assert_eq!(workers(&api).await["initializing"], 1, "a new process may use the id");
}

#[tokio::test(start_paused = true)]
async fn a_second_process_with_the_same_id_is_refused_and_gets_no_stop_signals() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    let taken = from_process(&api, "GET", "job-take/w1", "first", "").await;
    assert_eq!(taken.field("id"), id);
    let stops = {
        let api = api.clone();
        tokio::spawn(async move { from_process(&api, "GET", "job-stop/w1", "first", "").await })
    };
    sleep(Duration::from_secs(20)).await;
    for path in ["job-take/w1", "job-take-batch/w1", "job-stop/w1", "ping/w1"] {
        let refused = from_process(&api, "GET", path, "second", "").await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{path}");
        assert!(refused.field("error").contains("another process uses the worker id \"w1\""), "{}", refused.text);
    }
    let body = r#"{"jobs": []}"#;
    assert_eq!(from_process(&api, "POST", "hand-back/w1", "second", body).await.status, StatusCode::CONFLICT);
    assert_eq!(from_process(&api, "POST", "goodbye/w1", "second", "").await.status, StatusCode::CONFLICT);
    assert!(api.app.store.workers("ep", 9).await.unwrap()[0].has_duplicate);
    api.post(&format!("cancel/{id}"), "").await;
    assert_eq!(stops.await.unwrap().json(), json!({"jobsToStop": [id]}));
    let result = from_process(&api, "POST", &format!("job-done/w1/{id}"), "second", r#"{"output": 1}"#).await;
    assert_eq!(result.status, StatusCode::OK, "a result is taken from whichever process has it");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_after_the_last_one_crashed_is_served_within_seconds() {
    let api = Api::new();
    from_process(&api, "GET", "ping/w1", "first", "").await;
    let poll = {
        let api = api.clone();
        tokio::spawn(async move { from_process(&api, "GET", "job-take/w1", "first", "").await.status })
    };
    sleep(Duration::from_secs(10)).await;
    assert_eq!(from_process(&api, "GET", "ping/w1", "second", "").await.status, StatusCode::CONFLICT);
    // The kernel closes the connections of a process that crashes.
    poll.abort();
    assert!(poll.await.is_err());
    assert_eq!(from_process(&api, "GET", "ping/w1", "second", "").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn official_workers_without_an_instance_share_an_id_and_it_is_noticed() {
    let api = Api::new();
    let polls = [api.clone(), api.clone()].map(|api| tokio::spawn(async move { api.take("w1").await }));
    for poll in polls {
        assert_eq!(poll.await.unwrap(), "");
    }
    assert!(api.app.store.workers("ep", 9).await.unwrap()[0].has_duplicate);
    assert_eq!(api.app.store.observe("ep").await.unwrap().totals.duplicate_workers, 1);
    assert_eq!(from_process(&api, "GET", "ping/w1", "not an id", "").await.status, StatusCode::BAD_REQUEST);
}
