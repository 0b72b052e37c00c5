//! A far endpoint whose answers are lost, or that is frozen.

use std::sync::Mutex;
use std::time::Instant;

use axum::http::HeaderMap;

use super::*;

/// The keys under which jobs were submitted.
type Keys = Arc<Mutex<Vec<String>>>;

/// Lets everything through to `far`, which loses its first `lost` answers to `/run`.
fn losing(far: &Api, lost: usize) -> (Router, Keys) {
    let keys = Keys::default();
    let (seen, count) = (Arc::clone(&keys), Arc::new(AtomicUsize::new(0)));
    let router = far.router.clone().layer(from_fn(move |headers: HeaderMap, request: Request, next: Next| {
        let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
        async move {
            let is_run = request.uri().path().ends_with("/run");
            let answer = next.run(request).await;
            if !is_run {
                return answer;
            }
            seen.lock().unwrap().push(headers["idempotency-key"].to_str().unwrap().to_owned());
            let is_lost = count.fetch_add(1, Ordering::Relaxed) < lost;
            if is_lost { StatusCode::BAD_GATEWAY.into_response() } else { answer }
        }
    }));
    (router, keys)
}

/// Two tries for each of the first three attempts are lost: the fourth attempt finds the job, as often as a job may be lost that has begun.
#[tokio::test]
async fn a_job_that_came_back_because_nobody_knew_is_the_same_job_there_when_it_is_sent_again() {
    let far = Api::new();
    let (router, keys) = losing(&far, 6);
    let near = Near::start(&serve(router).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1}"#).await;
    eventually("its id there is known", async || {
        let jobs = near.api.app.store.elsewhere("ep").await.unwrap();
        jobs.first().and_then(|job| job.far_id.clone())
    })
    .await;
    assert_eq!(near.counts.totals("ep").unwrap().returned, 3);
    let there = taken(&far).await;
    assert_eq!(held(&far).await, 1, "it is there once");
    far.done("f1", id(&there), r#"{"output": "once"}"#).await;
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "once");
    let keys = keys.lock().unwrap().clone();
    assert_eq!((keys.len(), keys.iter().all(|key| *key == keys[0])), (7, true), "{keys:?}");
}

#[tokio::test]
async fn a_job_that_is_known_to_be_over_there_is_another_one_when_it_is_sent_again() {
    let far = Api::new();
    let (router, keys) = losing(&far, 0);
    let near = Near::start(&serve(router).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let first = taken(&far).await;
    far.post(&format!("cancel/{}", id(&first)), "").await;
    let second = taken(&far).await;
    assert_ne!(id(&first), id(&second));
    far.done("f1", id(&second), r#"{"output": "again"}"#).await;
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "again");
    let keys = keys.lock().unwrap().clone();
    assert_eq!((keys.len(), keys[0] == keys[1]), (2, false), "{keys:?}");
}

/// Accepts jobs and is frozen once it has one: connections are made, and nothing is answered.
fn frozen_with_a_job() -> (Router, Arc<AtomicBool>) {
    let is_frozen = Arc::new(AtomicBool::new(false));
    let frozen = Arc::clone(&is_frozen);
    let router = Router::new()
        .route("/v2/ep/run", post(async || r#"{"id": "far-1", "status": "IN_QUEUE"}"#))
        .route("/v2/ep/stream/{id}", get(async || r#"{"status": "IN_PROGRESS", "stream": []}"#))
        .route("/v2/ep/status/{id}", get(async || r#"{"status": "IN_PROGRESS"}"#))
        .route("/v2/ep/cancel/{id}", post(async || r#"{"status": "CANCELLED", "executionTime": 20000}"#))
        .layer(from_fn(move |request: Request, next: Next| {
            let is_frozen = frozen.load(Ordering::Relaxed);
            async move { if is_frozen { std::future::pending().await } else { next.run(request).await } }
        }));
    (router, is_frozen)
}

#[tokio::test]
async fn a_job_comes_back_in_time_from_a_far_endpoint_that_is_frozen() {
    let (router, is_frozen) = frozen_with_a_job();
    let near = Near::start(&serve(router).await, "after = \"0s\"\nlost_after = \"4s\"\nprice_per_hour = 3600.0");
    let job = near.api.run(r#"{"input": 1}"#).await;
    near.reaches(&job, "IN_PROGRESS").await;
    is_frozen.store(true, Ordering::Relaxed);
    let since = Instant::now();
    eventually("it came back", async || (near.counts.totals("ep").unwrap().returned == 1).then_some(())).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    assert!(near.counts.totals("ep").unwrap().is_away);
    assert_eq!(near.api.take("w1").await, job);
    // It is cancelled there as soon as that answers again.
    assert_eq!(near.api.app.store.cancels_elsewhere("ep").await.unwrap().len(), 1);
    assert_eq!(near.counts.totals("ep").unwrap().dollars, 0.0, "nobody knows yet");
    is_frozen.store(false, Ordering::Relaxed);
    eventually("it is cancelled there", async || {
        near.api.app.store.cancels_elsewhere("ep").await.unwrap().is_empty().then_some(())
    })
    .await;
    // A dollar a second, for as long as it ran there.
    eventually("it is paid", async || (near.counts.totals("ep").unwrap().dollars == 20.0).then_some(())).await;
}

#[tokio::test]
async fn a_submission_to_a_far_endpoint_that_is_frozen_comes_back_in_time_too() {
    let (router, is_frozen) = frozen_with_a_job();
    is_frozen.store(true, Ordering::Relaxed);
    let near = Near::start(&serve(router).await, "after = \"0s\"\nlost_after = \"4s\"");
    let (job, since) = (near.api.run(r#"{"input": 1}"#).await, Instant::now());
    assert_eq!(near.api.take("w1").await, job);
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_cancel_that_did_not_arrive_is_sent_after_a_restart() {
    let far = Api::new();
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let router = far.router.clone().layer(from_fn(move |request: Request, next: Next| {
        let is_away = away.load(Ordering::Relaxed);
        async move { if is_away { StatusCode::SERVICE_UNAVAILABLE.into_response() } else { next.run(request).await } }
    }));
    let url = serve(router).await;
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(&folder.path().join("jobs.db"), Setup::default());
    let near = Near::with(&url, AT_ONCE, open().unwrap(), true);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    near.reaches(&job, "IN_PROGRESS").await;
    is_away.store(true, Ordering::Relaxed);
    near.api.post(&format!("cancel/{job}"), "").await;
    eventually("it is to be cancelled there", async || {
        (near.api.app.store.cancels_elsewhere("ep").await.unwrap().len() == 1).then_some(())
    })
    .await;
    near.stop().await;
    assert_eq!(far.state(id(&there)).await, "IN_PROGRESS");

    let store = eventually("the file is free", async || open().ok()).await;
    let near = Near::with(&url, AT_ONCE, store, true);
    tokio::time::sleep(Duration::from_millis(300)).await;
    is_away.store(false, Ordering::Relaxed);
    reaches(&far, id(&there), "CANCELLED").await;
    eventually("nothing is left to do", async || {
        near.api.app.store.cancels_elsewhere("ep").await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(near.api.state(&job).await, "CANCELLED");
}

#[tokio::test]
async fn jobs_that_wait_there_are_purged_and_cancelled_there() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    let jobs = [near.api.run(r#"{"input": 1}"#).await, near.api.run(r#"{"input": 2}"#).await];
    eventually("both are there", async || (held(&far).await == 2).then_some(())).await;
    let running = taken(&far).await;
    near.reaches(&jobs[0], "IN_PROGRESS").await;
    let purged = near.api.post("purge-queue", "").await.json();
    assert_eq!(purged["removed"], 1, "{purged}");
    assert_eq!(near.api.state(&jobs[1]).await, "CANCELLED");
    eventually("it is cancelled there", async || (held(&far).await == 1).then_some(())).await;
    far.done("f1", id(&running), r#"{"output": 1}"#).await;
    near.reaches(&jobs[0], "COMPLETED").await;
}

#[tokio::test]
async fn what_holds_late_jobs_back_is_known() {
    let far = Api::new();
    let url = serve(far.router.clone()).await;
    let near = Near::start(&url, "after = \"0s\"\nmax_in_flight = 1");
    let held_back = |near: &Near| near.counts.totals("ep").unwrap().held_back;
    near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    assert_eq!(held_back(&near), None, "no other one is late");
    near.api.run(r#"{"input": 2}"#).await;
    eventually("one is held back", async || (held_back(&near) == Some(HeldBack::InFlight)).then_some(())).await;
    far.done("f1", id(&there), "{}").await;
    eventually("none is", async || held_back(&near).is_none().then_some(())).await;

    // Enough for a job of five seconds, and not for one of ten minutes.
    let near = Near::start(&url, "after = \"0s\"\nprice_per_hour = 3600.0\nmax_dollars_per_hour = 36.0");
    let job = near.api.run(r#"{"input": 1}"#).await;
    eventually("one is held back", async || (held_back(&near) == Some(HeldBack::Budget)).then_some(())).await;
    near.api.post(&format!("cancel/{job}"), "").await;
    eventually("none is", async || held_back(&near).is_none().then_some(())).await;
}
