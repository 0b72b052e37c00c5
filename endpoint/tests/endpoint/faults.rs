//! Scripted faults, as a worker meets them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use runpod_endpoint::api::{Keys, Options};
use runpod_endpoint::faults::{Faults, Script};
use runpod_endpoint::server::{Server, ServerConfig};
use runpod_endpoint::store::{Limits, MemoryStore};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{Api, HOLD, Reply, SOON};

fn options(script: &str, header: bool) -> Options {
    let faults = Faults::new(Script::parse(script).unwrap(), header);
    Options { faults: Some(Arc::new(faults)), ..Options::default() }
}

fn faulty(script: &str) -> Api {
    Api::with_options(options(script, true))
}

async fn run_with(api: &Api, faults: &str) -> Reply {
    let request = Request::post("/v2/ep/run").header("X-Runpod-Faults", faults);
    api.send(request.body(Body::from(r#"{"input": 1}"#)).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn polls_come_back_empty_or_refused_and_then_work() {
    let api = faulty(
        r#"
        [[fault]]
        on = "job-take"
        kind = "empty"
        times = 1

        [[fault]]
        on = "job-take"
        kind = "status"
        status = 429
        times = 1
        "#,
    );
    let id = api.run(r#"{"input": 1}"#).await;
    assert_eq!(api.get("job-take/w1").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get("job-take-batch/w1?batch_size=2").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(api.take("w1").await, id);
}

#[tokio::test(start_paused = true)]
async fn a_result_is_refused_before_the_endpoint_sees_it_or_after() {
    for (processed, state) in [(false, "IN_PROGRESS"), (true, "COMPLETED")] {
        let script = format!(
            "[[fault]]\non = \"job-done\"\nkind = \"status\"\nstatus = 503\ntimes = 2\nprocessed = {processed}"
        );
        let api = faulty(&script);
        let id = api.run(r#"{"input": 1}"#).await;
        api.take("w1").await;
        for _ in 0..2 {
            assert_eq!(api.done("w1", &id, "{}").await.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(api.state(&id).await, state);
        }
        assert_eq!(api.done("w1", &id, "{}").await.status, StatusCode::OK);
        assert_eq!(api.state(&id).await, "COMPLETED");
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_are_dropped_cost_the_lease() {
    let api = faulty("[[fault]]\non = \"ping\"\nkind = \"hang\"\nskip = 1\nafter = \"1s\"");
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.ping("w1", &id).await;
    for _ in 0..5 {
        let dropped = api.ping("w1", &id).await;
        assert_eq!(dropped.status, StatusCode::GATEWAY_TIMEOUT);
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert_eq!(api.take("w2").await, id);
}

#[tokio::test(start_paused = true)]
async fn a_stop_signal_comes_at_its_moment_and_leaves_the_job_alone() {
    let api = faulty("[[fault]]\non = \"job-stop\"\nkind = \"stop\"\nafter = \"3s\"\ntimes = 1");
    let id = api.run(r#"{"input": 1}"#).await;
    let start = Instant::now();
    api.take("w1").await;
    assert_eq!(api.get("job-stop/w1").await.json()["jobsToStop"], json!([id]));
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(api.state(&id).await, "IN_PROGRESS");
    assert_eq!(api.get("job-stop/w1").await.status, StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_handed_out_twice() {
    let api = faulty("[[fault]]\non = \"job-take\"\nkind = \"duplicate\"\nskip = 1\ntimes = 1");
    let id = api.run(r#"{"input": {"n": 1}}"#).await;
    let first = api.get("job-take/w1").await.text;
    assert_eq!(api.get("job-take/w2").await.text, first);
    api.done("w2", &id, r#"{"output": 1}"#).await;
    api.done("w1", &id, r#"{"output": 2}"#).await;
    assert_eq!(api.status(&id).await["output"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_trickles_in_and_is_complete() {
    let api = faulty("[[fault]]\non = \"job-take\"\nkind = \"slow-body\"\nbytes_per_second = 10");
    let id = api.run(r#"{"input": 1}"#).await;
    let start = Instant::now();
    assert_eq!(api.take("w1").await, id);
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(api.state(&id).await, "IN_PROGRESS");
}

#[tokio::test(start_paused = true)]
async fn a_job_may_bring_its_own_faults_where_that_is_allowed() {
    let header = r#"[{on = "job-done", kind = "status", status = 500, times = 1}]"#;
    let api = faulty("");
    let id = run_with(&api, header).await.field("id");
    let other = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.take("w1").await;
    assert_eq!(api.done("w1", &other, "{}").await.status, StatusCode::OK);
    assert_eq!(api.done("w1", &id, "{}").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(api.done("w1", &id, "{}").await.status, StatusCode::OK);
    assert_eq!(run_with(&api, "[{on = 1}]").await.status, StatusCode::BAD_REQUEST);

    let strict = Api::with_options(options("", false));
    let id = run_with(&strict, header).await.field("id");
    strict.take("w1").await;
    assert_eq!(strict.done("w1", &id, "{}").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_fails_puts_the_job_back_without_a_retry() {
    let api = faulty("");
    let id = run_with(&api, r#"[{on = "job-take", kind = "status", status = 500, times = 1}]"#).await.field("id");
    assert_eq!(api.get("job-take/w1").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(api.take("w1").await, id);
    assert_eq!(api.status(&id).await.get("retries"), None);
}

#[tokio::test]
async fn a_connection_is_reset_instead_of_answered() {
    let script = "[[fault]]\non = \"job-done\"\nkind = \"reset\"\ntimes = 1";
    let config = ServerConfig {
        bind: ([127, 0, 0, 1], 0).into(),
        keys: Keys::default(),
        insecure: false,
        hold: HOLD,
        max_result_bytes: 1 << 20,
        limits: runpod_http_server::ServerLimits::default(),
        request_memory: 64 << 20,
        options: Arc::new(options(script, false)),
    };
    let server = Server::bind(config).await.unwrap();
    let url = format!("{}/v2/ep/job-done/w1/job", server.base_url());
    let store = Arc::new(MemoryStore::new(Limits::default()));
    tokio::spawn(server.run(store, CancellationToken::new(), CancellationToken::new()));
    let client = reqwest::Client::new();
    let post = || async { timeout(SOON, client.post(&url).body("{}").send()).await.unwrap() };
    let error = post().await.unwrap_err();
    assert!(error.is_request() && error.status().is_none(), "{error:?}");
    assert!(post().await.unwrap().status().is_success());
}

#[tokio::test(start_paused = true)]
async fn the_documented_script_makes_a_bad_day_that_a_patient_worker_survives() {
    let text = include_str!("../../../docs/bad-day.toml");
    let api = faulty(text);
    let mut waiting: Vec<_> = Vec::new();
    for _ in 0..20 {
        waiting.push(api.run(r#"{"input": 1}"#).await);
    }
    let mut faults = 0;
    let worker = async {
        while !waiting.is_empty() {
            let taken = api.get("job-take/w1").await;
            if taken.status != StatusCode::OK || taken.text.len() < 20 {
                faults += 1;
                continue;
            }
            let id = taken.field("id");
            while api.done("w1", &id, r#"{"output": 1}"#).await.status != StatusCode::OK {
                faults += 1;
            }
            waiting.retain(|job| *job != id);
        }
    };
    timeout(Duration::from_secs(3600), worker).await.unwrap();
    assert!(faults > 3, "{faults}");
    assert_eq!(api.get("health").await.json()["jobs"]["completed"], 20);
}
