//! Endpoints with settings of their own, and what is refused before any handler sees it.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use runpod_endpoint::api::{Catalog, KeySet, Keys, Options, Secret};
use runpod_endpoint::store::{MemoryStore, Overrides, Policy, Setup, WorkerEvent};

use crate::support::Api;

fn catalog(closed: bool) -> Options {
    let policy = Policy { execution_timeout: Some(Duration::from_secs(5)), ..Policy::default() };
    let policies = HashMap::from([("ep".to_owned(), policy)]);
    Options { catalog: Catalog { policies, closed, ..Catalog::default() }, ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn an_endpoints_execution_timeout_applies_to_jobs_that_set_none() {
    let api = Api::with_options(catalog(false));
    let (short, long) =
        (api.run(r#"{"input": 1}"#).await, api.run(r#"{"input": 1, "policy": {"executionTimeout": 60000}}"#).await);
    let told = async |worker| api.get(&format!("job-take/{worker}")).await.json()["policy"]["executionTimeout"].clone();
    assert_eq!([told("w1").await, told("w2").await], [5000, 60_000]);
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!((api.state(&short).await, api.state(&long).await), ("FAILED".to_owned(), "IN_PROGRESS".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_can_be_shorter_for_one_endpoint() {
    let own = Overrides { lease: Some(Duration::from_secs(5)), ..Overrides::default() };
    let overrides = HashMap::from([("ep".to_owned(), own)]);
    let api =
        Api::build(Keys::default(), Options::default(), MemoryStore::new(Setup { overrides, ..Setup::default() }));
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.ping("w1", &id).await;
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(api.take("w2").await, id);
}

#[tokio::test(start_paused = true)]
async fn unknown_endpoints_exist_unless_the_list_is_closed() {
    let request = || Request::get("/v2/other/health").body(Body::empty()).unwrap();
    assert_eq!(Api::with_options(catalog(false)).send(request()).await.status, StatusCode::OK);
    let closed = Api::with_options(catalog(true));
    let refused = closed.send(request()).await;
    assert_eq!((refused.status, refused.json()["status"].as_u64()), (StatusCode::NOT_FOUND, Some(404)));
    assert_eq!(refused.field("error"), r#"there is no endpoint "other" here; use "ep""#);
    assert_eq!(closed.get("health").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn oversized_headers_are_refused() {
    let api = Api::new();
    let request = Request::get("/v2/ep/health").header("X-Large", "a".repeat(70_000)).body(Body::empty()).unwrap();
    assert_eq!(api.send(request).await.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn any_of_several_keys_opens() {
    let keys = |names: [&str; 2]| KeySet::new(names.map(Secret::from));
    let api = Api::with(Keys { client: keys(["a", "b"]), worker: keys(["c", "d"]), ..Keys::default() });
    for (path, key, status) in [("health", "a", 200), ("health", "b", 200), ("health", "c", 401), ("ping/w1", "d", 200)]
    {
        let request = Request::get(format!("/v2/ep/{path}")).header("Authorization", key).body(Body::empty()).unwrap();
        assert_eq!(api.send(request).await.status.as_u16(), status, "{path} {key}");
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_name_the_ready_workers() {
    let api = Api::new();
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.take("w1").await, id);
    api.ping("w2", "").await;
    let metrics = api.get("metrics").await.json();
    assert_eq!(metrics["readyWorkers"], serde_json::json!(["w1"]));
    assert_eq!((&metrics["workers"]["running"], &metrics["workers"]["initializing"]), (&1.into(), &1.into()));
    api.app.store.worker_event("ep", "w3", WorkerEvent::Throttled).await.unwrap();
    assert_eq!(api.get("metrics").await.json()["workers"]["throttled"], 1);
}
