//! The OpenAI passthrough.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use runpod_endpoint::api::{KeySet, Keys, Secret};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Api, Reply};

const CHAT: &str = r#"{"model": "m", "messages": [], "temperature": 0.10}"#;

/// A worker that ends its next job with `body`.
fn work(api: &Api, body: &'static str) -> tokio::task::JoinHandle<String> {
    let api = api.clone();
    tokio::spawn(async move {
        let job = api.get("job-take/w1").await;
        api.done("w1", &job.field("id"), body).await;
        job.text
    })
}

async fn chat(api: &Api) -> Reply {
    api.post("openai/v1/chat/completions", CHAT).await
}

#[tokio::test(start_paused = true)]
async fn a_request_becomes_a_job_and_its_output_the_answer() {
    let api = Api::new();
    let job = work(&api, r#"{"output": {"id": "c1", "choices": [ ]}}"#);
    let answer = chat(&api).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, r#"{"id": "c1", "choices": [ ]}"#));
    let job = job.await.unwrap();
    assert!(
        job.contains(&format!(r#""input":{{"openai_input":{CHAT},"openai_route":"/v1/chat/completions"}}"#)),
        "{job}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_null_is_not_wanted() {
    let api = Api::new();
    work(&api, r#"{"output": {"id": "c1"}}"#);
    let answer = api.post("openai/v1/chat/completions", r#"{"model": "m", "stream": null}"#).await;
    assert_eq!((answer.status, &*answer.text), (StatusCode::OK, r#"{"id": "c1"}"#));
}

#[tokio::test(start_paused = true)]
async fn a_route_without_a_body_has_no_openai_input() {
    let api = Api::new();
    let job = work(&api, r#"{"output": [{"object": "list"}]}"#);
    let answer = api.get("openai/v1/models").await;
    assert_eq!(&*answer.text, r#"{"object": "list"}"#, "the aggregate of one item is that item");
    assert!(job.await.unwrap().contains(r#""input":{"openai_route":"/v1/models"}"#));
}

#[tokio::test(start_paused = true)]
async fn failures_are_openai_error_objects() {
    let api = Api::new();
    work(&api, r#"{"error": "out of memory"}"#);
    let failed = chat(&api).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    let expected = json!({"code": 500, "message": "out of memory", "param": null, "type": "server_error"});
    assert_eq!(failed.json()["error"], expected);

    work(&api, r#"{"output": {"object": "error", "message": "no such model", "code": 404}}"#);
    assert_eq!(chat(&api).await.status, StatusCode::NOT_FOUND);

    let broken = api.post("openai/v1/completions", "{").await;
    assert_eq!(
        (broken.status, &broken.json()["error"]["type"]),
        (StatusCode::BAD_REQUEST, &"invalid_request_error".into())
    );

    let keyed = Api::with(Keys { client: KeySet::new([Secret::from("k")]), ..Keys::default() });
    let refused = chat(&keyed).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["type"]),
        (StatusCode::UNAUTHORIZED, &"authentication_error".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_streaming_request_gets_events_as_items_arrive() {
    for items in [[r#"{"d": 1}"#, r#"{"d": 2}"#], [r#""data: {\"d\": 1}\n\n""#, r#""data: {\"d\": 2}\n\n""#]] {
        let api = Api::new();
        let body = Body::from(r#"{"stream": true}"#);
        let request = Request::post("/v2/ep/openai/v1/completions").body(body).unwrap();
        let response = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let id = api.take("w1").await;
        for item in items {
            api.post(&format!("job-stream/w1/{id}"), format!(r#"{{"output": {item}}}"#)).await;
        }
        api.done("w1", &id, r#"{"output": []}"#).await;
        let text = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(text, "data: {\"d\": 1}\n\ndata: {\"d\": 2}\n\ndata: [DONE]\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_job_that_has_streamed_is_no_event() {
    let api = Api::new();
    let request = Request::post("/v2/ep/openai/v1/completions").body(Body::from(r#"{"stream": true}"#)).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    let reader = tokio::spawn(to_bytes(response.into_body(), usize::MAX));
    let id = api.take("w1").await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": {"d": 1}}"#).await;
    // The reader gets the item before the job ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    api.done("w1", &id, r#"{"output": {"whole": 1}}"#).await;
    assert_eq!(reader.await.unwrap().unwrap(), "data: {\"d\": 1}\n\ndata: [DONE]\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_ends_with_an_error_event() {
    let api = Api::new();
    let request = Request::post("/v2/ep/openai/v1/completions").body(Body::from(r#"{"stream": true}"#)).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    let id = api.take("w1").await;
    api.done("w1", &id, r#"{"error": "no"}"#).await;
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.starts_with(r#"data: {"error":{"code":500,"message":"no""#), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_stops_its_job() {
    let api = Api::new();
    let caller = api.clone();
    let request = tokio::spawn(async move { chat(&caller).await });
    let id = api.take("w1").await;
    request.abort();
    let stops = api.get("job-stop/w1").await.json();
    assert_eq!(stops["jobsToStop"], json!([id]));
    assert_eq!(api.state(&id).await, "CANCELLED");
}
