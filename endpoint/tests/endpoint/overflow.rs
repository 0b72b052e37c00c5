//! Jobs that wait too long are run by another endpoint: one of ours, in the place of the cloud.

mod costs;
mod doubt;
mod lost;
mod programs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use end_to_end_tests::eventually;
use runpod_endpoint::api::{KeySet, Keys, Options, Secret};
use runpod_endpoint::overflow::{HeldBack, Overflow, OverflowConfig, OverflowCounts};
use runpod_endpoint::store::{Limits, MemoryStore, Overdue, Setup, SqliteStore, Store, WorkerState};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::commands::serve;
use crate::support::{Api, SOON};

/// An endpoint whose late jobs go elsewhere.
struct Near {
    api: Api,
    counts: OverflowCounts,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Near {
    /// `settings` are lines of the configuration.
    fn start(url: &str, settings: &str) -> Self {
        Self::with(url, settings, MemoryStore::new(Limits::default()), false)
    }

    fn with(url: &str, settings: &str, store: impl Store, resumes: bool) -> Self {
        let api = Api::build(Keys::default(), Options::default(), store);
        let config: OverflowConfig = toml::from_str(&format!("url = {url:?}\n{settings}")).unwrap();
        let counts = OverflowCounts::default();
        let settings = BTreeMap::from([("ep".to_owned(), config.open().unwrap())]);
        let overflow = Overflow::new(&api.app.store, settings, 1 << 20, resumes, &counts).unwrap();
        let stop = CancellationToken::new();
        let task = overflow.start(&stop, &stop);
        Self { api, counts, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(SOON, self.task).await.unwrap().unwrap();
    }

    async fn reaches(&self, job: &str, state: &str) -> Value {
        reaches(&self.api, job, state).await
    }
}

async fn reaches(api: &Api, job: &str, state: &str) -> Value {
    eventually(&format!("{job} is {state}"), async || {
        Some(api.status(job).await).filter(|document| document["status"] == state)
    })
    .await
}

/// Takes the next job of the far endpoint.
async fn taken(far: &Api) -> Value {
    let reply = timeout(SOON, far.get("job-take/f1?gpu=FAR&job_in_progress=0")).await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

/// Jobs that wait, and those that a worker holds.
async fn held(far: &Api) -> usize {
    far.get("requests").await.json()["requests"].as_array().unwrap().len()
}

const AT_ONCE: &str = "after = \"0s\"";

#[tokio::test]
async fn a_late_job_is_run_elsewhere_with_all_that_belongs_to_it() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    let body =
        r#"{"input": {"n": 1.50}, "s3Config": {"accessId": "a"}, "policy": {"executionTimeout": 60000, "ttl": 90000}}"#;
    let job = near.api.run(body).await;

    let waiting = eventually("the job is elsewhere", async || {
        Some(near.api.status(&job).await).filter(|document| document["workerId"] == "overflow")
    })
    .await;
    assert_eq!(waiting["status"], "IN_QUEUE", "no worker has begun it: {waiting}");
    let there = taken(&far).await;
    assert_eq!(there["input"], json!({"n": 1.50}));
    assert_eq!((&there["s3Config"], &there["policy"]["executionTimeout"]), (&json!({"accessId": "a"}), &json!(60_000)));
    near.reaches(&job, "IN_PROGRESS").await;

    far.done("f1", id(&there), r#"{"status": "IN_PROGRESS", "output": {"pct": 40}}"#).await;
    eventually("the progress is shown", async || {
        (near.api.status(&job).await["output"] == json!({"pct": 40})).then_some(())
    })
    .await;
    for item in 0..3 {
        far.post(&format!("job-stream/f1/{}?gpu=FAR&isStream=true", id(&there)), format!(r#"{{"output": {item}}}"#))
            .await;
    }
    far.done("f1", id(&there), r#"{"output": {"y": 2.50}, "cost": {"gpuSeconds": 1.5, "dollars": 0.25}}"#).await;
    let ended = near.reaches(&job, "COMPLETED").await;
    let text = near.api.get(&format!("status/{job}")).await.text;
    assert!(text.contains(r#"{"y": 2.50}"#), "payloads are not re-encoded: {text}");
    assert_eq!(ended["cost"], json!({"gpuSeconds": 1.5, "dollars": 0.25}));
    assert!(
        ended["delayTime"].is_u64() && ended["executionTime"].is_u64() && ended.get("retries").is_none(),
        "{ended}"
    );
    let stream = near.api.get(&format!("stream/{job}")).await.json();
    assert_eq!(stream["stream"], json!([{"output": 0}, {"output": 1}, {"output": 2}]));
    let totals = near.counts.totals("ep").unwrap();
    assert_eq!((totals.completed, totals.dollars), (1, 0.25));
}

#[tokio::test]
async fn a_job_that_a_worker_takes_in_time_stays_and_so_does_one_of_low_priority() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, "after = \"1s\"");
    let (own, low) = (near.api.run(r#"{"input": 1}"#).await, r#"{"input": 2, "policy": {"lowPriority": true}}"#);
    assert_eq!(near.api.take("w1").await, own);
    let (low, late) = (near.api.run(low).await, near.api.run(r#"{"input": 3}"#).await);
    assert_eq!(taken(&far).await["input"], 3);
    near.reaches(&late, "IN_PROGRESS").await;
    assert!(near.api.status(&low).await.get("workerId").is_none());
    near.api.done("w1", &own, "{}").await;
    assert_eq!(near.api.status(&own).await["workerId"], "w1");
    assert_eq!(near.api.take("w1").await, low);
}

#[tokio::test]
async fn the_overflow_is_a_worker_that_counts_as_one_only_while_it_holds_a_job() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    let state = async || {
        let workers = near.api.app.store.workers("ep", 10).await.unwrap();
        workers.iter().find(|worker| *worker.id == *"overflow").map(|worker| (worker.state, worker.jobs))
    };
    eventually("it is shown", async || (state().await == Some((WorkerState::Standby, 0))).then_some(())).await;
    let idle = near.api.get("health").await.json();
    assert_eq!(
        idle["workers"],
        json!({"idle": 0, "initializing": 0, "ready": 0, "running": 0, "throttled": 0, "unhealthy": 0})
    );
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    near.reaches(&job, "IN_PROGRESS").await;
    assert_eq!(state().await, Some((WorkerState::Running, 1)));
    assert_eq!(near.api.get("health").await.json()["workers"]["running"], 1);
    assert_eq!(near.api.app.store.load("ep").await.unwrap().in_progress, 0, "own workers are not scaled for it");
    far.done("f1", id(&there), "{}").await;
    near.reaches(&job, "COMPLETED").await;
}

#[tokio::test]
async fn errors_and_timeouts_pass_through() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    for (report, error) in [
        (r#"{"error": "bad input"}"#, "bad input"),
        (
            r#"{"error": "{\"error_type\":\"timeout\",\"error_message\":\"m\"}"}"#,
            r#"{"error_type":"timeout","error_message":"m"}"#,
        ),
    ] {
        let job = near.api.run(r#"{"input": 1}"#).await;
        let there = taken(&far).await;
        far.done("f1", id(&there), report).await;
        let failed = near.reaches(&job, "FAILED").await;
        assert_eq!((failed["error"].as_str(), failed.get("retries")), (Some(error), None));
    }
    assert_eq!(near.counts.totals("ep").unwrap().failed, 2);
}

#[tokio::test]
async fn mistakes_of_callers_are_told_from_failures_there_too() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    for (kind, totals) in [("validation", (1, 1, 0)), ("model_not_found", (2, 1, 1)), ("oom", (3, 1, 1))] {
        let job = near.api.run(r#"{"input": 1}"#).await;
        let there = taken(&far).await;
        let error = json!({"error_type": kind, "error_message": "m"}).to_string();
        far.done("f1", id(&there), &json!({ "error": error }).to_string()).await;
        near.reaches(&job, "FAILED").await;
        let seen = near.api.app.store.observe("ep").await.unwrap().totals;
        assert_eq!((seen.failed, seen.invalid, seen.model_not_found), totals, "{kind}");
    }
}

#[tokio::test]
async fn a_cancelled_job_is_cancelled_there_whether_it_runs_or_waits() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    for runs in [false, true] {
        let job = near.api.run(r#"{"input": 1}"#).await;
        let there = eventually("it is there", async || {
            let pending = far.get("requests").await.json();
            pending["requests"][0]["id"].as_str().map(str::to_owned)
        })
        .await;
        if runs {
            taken(&far).await;
            near.reaches(&job, "IN_PROGRESS").await;
        }
        near.api.post(&format!("cancel/{job}"), "").await;
        assert_eq!(reaches(&far, &there, "CANCELLED").await["id"], *there);
        assert_eq!(near.api.state(&job).await, "CANCELLED");
    }
}

#[tokio::test]
async fn a_job_that_expires_here_is_cancelled_there() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1, "policy": {"ttl": 10000}}"#).await;
    let there = taken(&far).await;
    // Its ttl there has the same end: what is asked for is that nothing of it is left on either side.
    eventually("it is gone", async || {
        let reply = near.api.get(&format!("status/{job}")).await;
        (reply.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    eventually("nothing is held there", async || {
        let health = far.get("health").await.json();
        (health["jobs"]["inProgress"] == 0).then_some(())
    })
    .await;
    assert_ne!(id(&there), job);
    assert!(near.api.app.store.elsewhere("ep").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_somebody_cancels_there_comes_back_at_its_place_without_a_retry() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, "after = \"0s\"\nmax_in_flight = 1");
    let (first, _second) = (near.api.run(r#"{"input": 1}"#).await, near.api.run(r#"{"input": 2}"#).await);
    let there = taken(&far).await;
    assert_eq!(there["input"], 1);
    near.reaches(&first, "IN_PROGRESS").await;
    far.post(&format!("job-stream/f1/{}?gpu=FAR&isStream=true", id(&there)), r#"{"output": "half"}"#).await;
    far.post(&format!("cancel/{}", id(&there)), "").await;
    eventually("it came back", async || (near.counts.totals("ep").unwrap().returned == 1).then_some(())).await;
    assert_eq!(near.api.take("w1").await, first, "ahead of the one that was submitted later");
    let again = near.api.status(&first).await;
    assert_eq!((again.get("retries"), again["status"].as_str()), (None, Some("IN_PROGRESS")));
    near.api.done("w1", &first, r#"{"output": "whole"}"#).await;
    assert_eq!(near.api.get(&format!("stream/{first}")).await.json()["stream"], json!([]), "no half of it is left");
    assert_eq!(near.reaches(&first, "COMPLETED").await["output"], "whole");
}

#[tokio::test]
async fn a_job_that_is_refused_there_waits_here_and_holds_up_no_other() {
    let far = Api::new();
    let refused = "/v2/{endpoint}/run";
    let accepts = far.router.clone();
    let refusing = Router::new()
        .route(
            refused,
            post(async |body: String| {
                let status = if body.contains("bad") { StatusCode::BAD_REQUEST } else { StatusCode::OK };
                (
                    status,
                    if body.contains("bad") {
                        r#"{"error": "no"}"#.to_owned()
                    } else {
                        r#"{"id": "far-1", "status": "IN_QUEUE"}"#.to_owned()
                    },
                )
            }),
        )
        .fallback_service(accepts);
    let near = Near::start(&serve(refusing).await, AT_ONCE);
    let (bad, good) = (near.api.run(r#"{"input": "bad"}"#).await, near.api.run(r#"{"input": "good"}"#).await);
    eventually("both were sent", async || (near.counts.totals("ep").unwrap().returned >= 2).then_some(())).await;
    assert_eq!(near.api.take("w1").await, bad);
    assert_eq!(near.api.status(&bad).await.get("retries"), None);
    // The id of the other one is not known there: it comes back too, as often as is allowed.
    assert_eq!(near.api.take("w1").await, good);
}

#[tokio::test]
async fn a_job_is_sent_again_however_often_nothing_was_taken_there() {
    let (far, refusals) = (Api::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&refusals);
    // As often as a job may be lost.
    let away = from_fn(move |request: Request, next: Next| {
        let is_away = counted.fetch_add(1, Ordering::Relaxed) < 3;
        async move { if is_away { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { next.run(request).await } }
    });
    let near = Near::start(&serve(far.router.clone().layer(away)).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = eventually("it is there", async || {
        let reply = far.get("job-take/f1?gpu=FAR&job_in_progress=0").await;
        (reply.status == StatusCode::OK).then(|| reply.json())
    })
    .await;
    assert_eq!(near.counts.totals("ep").unwrap().returned, 3);
    far.done("f1", id(&there), r#"{"output": "late"}"#).await;
    near.reaches(&job, "COMPLETED").await;
}

#[tokio::test]
async fn a_wrong_key_or_no_endpoint_leaves_the_jobs_here() {
    let keys = Keys {
        client: KeySet::new([Secret::from("right")]),
        worker: KeySet::new([Secret::from("w")]),
        ..Keys::default()
    };
    let far = Api::with(keys);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let url = serve(far.router.clone()).await;
    let with_key = format!("{AT_ONCE}\nkey_file = {:?}", key.display().to_string());
    std::fs::write(&key, "wrong").unwrap();
    for (url, settings) in [(&*url, &*with_key), (&*url, AT_ONCE), ("http://127.0.0.1:9/v2/ep", AT_ONCE)] {
        let near = Near::start(url, settings);
        let job = near.api.run(r#"{"input": 1}"#).await;
        eventually("it came back", async || (near.counts.totals("ep").unwrap().returned > 0).then_some(())).await;
        assert_eq!(near.api.take("w1").await, job);
        near.api.done("w1", &job, "{}").await;
        assert_eq!(near.api.state(&job).await, "COMPLETED");
    }
    std::fs::write(&key, "right").unwrap();
    let near = Near::start(&url, &with_key);
    let job = near.api.run(r#"{"input": 1}"#).await;
    eventually("it is there", async || (!near.api.app.store.elsewhere("ep").await.unwrap().is_empty()).then_some(()))
        .await;
    assert_eq!(near.api.status(&job).await["workerId"], "overflow");
}

#[tokio::test]
async fn no_more_is_sent_than_may_be_in_flight_or_be_spent() {
    let far = Api::new();
    let url = serve(far.router.clone()).await;
    let near = Near::start(&url, "after = \"0s\"\nmax_in_flight = 2");
    for _ in 0..4 {
        near.api.run(r#"{"input": 1}"#).await;
    }
    let waiting = async |far: &Api| far.get("requests").await.json()["requests"].as_array().unwrap().len();
    eventually("two are there", async || (waiting(&far).await == 2).then_some(())).await;
    assert_eq!(near.api.app.store.elsewhere("ep").await.unwrap().len(), 2);
    let first = taken(&far).await;
    far.done("f1", id(&first), "{}").await;
    eventually("the next one is sent", async || (waiting(&far).await == 2).then_some(())).await;
    let jobs = near.api.get("health").await.json()["jobs"].clone();
    assert_eq!((&jobs["inQueue"], &jobs["inProgress"]), (&json!(3), &json!(0)), "two of them there, as they say");
    near.stop().await;
}

#[tokio::test]
async fn without_a_data_file_jobs_are_cancelled_there_at_the_end() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    near.stop().await;
    assert_eq!(far.state(id(&there)).await, "CANCELLED");
}

#[tokio::test]
async fn with_a_data_file_a_job_is_found_again_after_a_restart() {
    let far = Api::new();
    let url = serve(far.router.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(&folder.path().join("jobs.db"), Setup::default());
    let near = Near::with(&url, AT_ONCE, open().unwrap(), true);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    far.post(&format!("job-stream/f1/{}?gpu=FAR&isStream=true", id(&there)), r#"{"output": 1}"#).await;
    near.reaches(&job, "IN_PROGRESS").await;
    near.stop().await;
    far.post(&format!("job-stream/f1/{}?gpu=FAR&isStream=true", id(&there)), r#"{"output": 2}"#).await;
    far.done("f1", id(&there), r#"{"output": "done"}"#).await;

    let store = eventually("the file is free", async || open().ok()).await;
    let near = Near::with(&url, AT_ONCE, store, true);
    let ended = near.reaches(&job, "COMPLETED").await;
    assert_eq!((ended["output"].as_str(), ended["workerId"].as_str()), (Some("done"), Some("overflow")));
    assert_eq!(near.api.get(&format!("stream/{job}")).await.json()["stream"], json!([{"output": 1}, {"output": 2}]));
    assert_eq!(far.get("health").await.json()["jobs"]["completed"], 1, "it has run once");
}

#[tokio::test]
async fn a_job_whose_submission_was_cut_off_by_a_restart_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(&folder.path().join("jobs.db"), Setup::default());
    let api = Api::build(Keys::default(), Options::default(), open().unwrap());
    let job = api.run(r#"{"input": 1}"#).await;
    let overdue = Overdue { max: 1, ..Overdue::default() };
    assert_eq!(api.app.store.take_overdue("ep", &overdue).await.unwrap().len(), 1);
    drop(api);
    let store = eventually("the file is free", async || open().ok()).await;
    let near = Near::with("http://127.0.0.1:9/v2/ep", "after = \"1h\"", store, true);
    assert_eq!(near.api.take("w1").await, job);
    assert_eq!(near.api.status(&job).await.get("retries"), None);
}

/// A far endpoint that accepts jobs, and whose first answer to `/run` is lost: it comes when `answers` has a permit.
fn mute(far: &Api, answers: &Arc<Semaphore>) -> Router {
    let answers = Arc::clone(answers);
    let is_first = Arc::new(AtomicBool::new(true));
    far.router.clone().layer(from_fn(move |request: Request, next: Next| {
        let (answers, is_first) = (Arc::clone(&answers), Arc::clone(&is_first));
        async move {
            let is_run = request.uri().path().ends_with("/run");
            let answer = next.run(request).await;
            if is_run && is_first.swap(false, Ordering::Relaxed) {
                let _ = answers.acquire().await;
                return StatusCode::BAD_GATEWAY.into_response();
            }
            answer
        }
    }))
}

#[tokio::test]
async fn a_submission_whose_answer_was_lost_is_one_job_there() {
    let far = Api::new();
    let near = Near::start(&serve(mute(&far, &Arc::new(Semaphore::new(1)))).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = eventually("it is known there", async || {
        let jobs = near.api.app.store.elsewhere("ep").await.unwrap();
        jobs.first().and_then(|job| job.far_id.clone())
    })
    .await;
    let taken = taken(&far).await;
    assert_eq!((id(&taken), held(&far).await), (&*there, 1));
    far.done("f1", id(&taken), r#"{"output": "once"}"#).await;
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "once");
    assert_eq!(near.counts.totals("ep").unwrap().returned, 0);
}

#[tokio::test]
async fn a_result_that_is_too_large_fails_the_job_and_says_so() {
    let far = Router::new()
        .route("/v2/ep/run", post(async || r#"{"id": "far-1", "status": "IN_QUEUE"}"#))
        .route("/v2/ep/stream/{id}", get(async || r#"{"status": "COMPLETED", "stream": []}"#))
        .route("/v2/ep/cancel/{id}", post(async || "{}"))
        .route(
            "/v2/ep/status/{id}",
            get(async || format!(r#"{{"status": "COMPLETED", "output": "{}"}}"#, "x".repeat(6 << 20))),
        );
    let near = Near::start(&serve(far).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let failed = near.reaches(&job, "FAILED").await;
    assert!(failed["error"].as_str().unwrap().contains("--max-result-mib"), "{failed}");
}

#[tokio::test]
async fn no_other_worker_gets_jobs_under_the_name_of_the_overflow() {
    let near = Near::start("http://127.0.0.1:9/v2/ep", "after = \"1h\"");
    eventually("it is there", async || (!near.api.app.store.workers("ep", 1).await.unwrap().is_empty()).then_some(()))
        .await;
    let job = near.api.run(r#"{"input": 1}"#).await;
    assert_eq!(near.api.get("job-take/overflow?gpu=L&job_in_progress=0").await.status, StatusCode::CONFLICT);
    assert_eq!(near.api.take("w1").await, job);
}
