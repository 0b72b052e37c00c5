//! The platform's rate limits, when they are switched on.

use axum::http::StatusCode;
use runpod_endpoint::api::{Options, RateLimits};

use crate::support::Api;

fn limited() -> Api {
    Api::with_options(Options { rate_limits: Some(RateLimits::default()), ..Options::default() })
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_table_get_429_until_the_window_ends() {
    let api = limited();
    for _ in 0..2 {
        assert_eq!(api.post("purge-queue", "").await.status, StatusCode::OK);
    }
    let refused = api.post("purge-queue", "").await;
    assert_eq!((refused.status, refused.json()["status"].as_u64()), (StatusCode::TOO_MANY_REQUESTS, Some(429)));
    assert!(refused.field("error").contains("10 s"), "{}", refused.text);
    assert_eq!(api.get("requests").await.status, StatusCode::OK, "each operation has its own count");
    let other = axum::http::Request::post("/v2/other/purge-queue").body(axum::body::Body::empty()).unwrap();
    assert_eq!(api.send(other).await.status, StatusCode::OK, "each endpoint has its own count");
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    assert_eq!(api.post("purge-queue", "").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_held_count_until_they_are_answered() {
    let api = limited();
    let mut held = Vec::new();
    for _ in 0..400 {
        let api = api.clone();
        held.push(tokio::spawn(async move { api.post("runsync?wait=5000", r#"{"input": 1}"#).await.status }));
    }
    while api.get("health").await.json()["jobs"]["inQueue"] != 400 {
        tokio::task::yield_now().await;
    }
    assert_eq!(api.post("runsync", r#"{"input": 1}"#).await.status, StatusCode::TOO_MANY_REQUESTS);
    for request in held {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(api.post("runsync?wait=1000", r#"{"input": 1}"#).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_limited_by_default_and_workers_never_are() {
    let free = Api::new();
    for _ in 0..20 {
        assert_eq!(free.post("purge-queue", "").await.status, StatusCode::OK);
    }
    let api = limited();
    for _ in 0..3000 {
        assert_eq!(api.ping("w1", "").await.status, StatusCode::OK);
    }
}
