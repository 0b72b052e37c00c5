//! Jobs of which nothing is heard for longer than `lost_after`.

use super::*;

const SOON_LOST: &str = "after = \"0s\"\nlost_after = \"3s\"";

/// Lets everything through to `far`; while the switch is on, nothing is answered.
fn deaf(far: &Api) -> (Router, Arc<AtomicBool>) {
    let is_deaf = Arc::new(AtomicBool::new(false));
    let deaf = Arc::clone(&is_deaf);
    let router = far.router.clone().layer(from_fn(move |request: Request, next: Next| {
        let is_deaf = deaf.load(Ordering::Relaxed);
        async move { if is_deaf { std::future::pending().await } else { next.run(request).await } }
    }));
    (router, is_deaf)
}

/// A job that has begun at a far endpoint of which nothing is heard any more.
struct Unheard {
    far: Api,
    near: Near,
    is_deaf: Arc<AtomicBool>,
    job: String,
    /// The job there.
    there: Value,
}

async fn unheard() -> Unheard {
    let far = Api::new();
    let (router, is_deaf) = deaf(&far);
    let near = Near::start(&serve(router).await, SOON_LOST);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    near.reaches(&job, "IN_PROGRESS").await;
    is_deaf.store(true, Ordering::Relaxed);
    Unheard { far, near, is_deaf, job, there }
}

async fn returned(near: &Near, times: u64) {
    eventually("it came back", async || (near.counts.totals("ep").unwrap().returned == times).then_some(())).await;
}

#[tokio::test]
async fn a_job_that_ended_there_while_nothing_was_heard_of_it_is_not_run_again() {
    for (report, state) in [(r#"{"output": "paid"}"#, "COMPLETED"), (r#"{"error": "bad input"}"#, "FAILED")] {
        let Unheard { far, near, is_deaf, job, there } = unheard().await;
        far.done("f1", id(&there), report).await;
        returned(&near, 1).await;
        is_deaf.store(false, Ordering::Relaxed);
        let ended = near.reaches(&job, state).await;
        assert!(ended["output"] == "paid" || ended["error"] == "bad input", "{ended}");
        assert_eq!(held(&far).await, 0, "it is not there a second time");
        let totals = near.counts.totals("ep").unwrap();
        assert_eq!((totals.completed + totals.failed, totals.returned), (1, 1));
    }
}

#[tokio::test]
async fn a_worker_of_this_endpoint_that_has_begun_such_a_job_by_then_is_stopped() {
    let Unheard { far, near, is_deaf, job, there } = unheard().await;
    far.done("f1", id(&there), r#"{"output": "paid"}"#).await;
    returned(&near, 1).await;
    assert_eq!(near.api.take("w1").await, job);
    is_deaf.store(false, Ordering::Relaxed);
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "paid");
    let stops = near.api.app.store.stops("ep", "w1", Duration::from_secs(5)).await.unwrap();
    assert!(stops.iter().any(|stopped| **stopped == *job), "{stops:?}");
}

#[tokio::test]
async fn a_job_that_streams_is_run_again_when_its_items_are_lost() {
    let Unheard { far, near, is_deaf, there, .. } = unheard().await;
    far.post(&format!("job-stream/f1/{}?gpu=FAR&isStream=true", id(&there)), r#"{"output": 1}"#).await;
    far.done("f1", id(&there), "{}").await;
    returned(&near, 1).await;
    is_deaf.store(false, Ordering::Relaxed);
    let again = taken(&far).await;
    assert_ne!(id(&again), id(&there));
}

/// As when this process was suspended, or its connection has died.
#[tokio::test]
async fn a_job_is_asked_for_once_before_it_counts_as_lost() {
    let (far, loses_one) = (Api::new(), Arc::new(AtomicBool::new(false)));
    let loses = Arc::clone(&loses_one);
    let router = far.router.clone().layer(from_fn(move |request: Request, next: Next| {
        let is_lost = request.uri().path().contains("/stream/") && loses.swap(false, Ordering::Relaxed);
        async move { if is_lost { std::future::pending().await } else { next.run(request).await } }
    }));
    let near = Near::start(&serve(router).await, SOON_LOST);
    let job = near.api.run(r#"{"input": 1}"#).await;
    let there = taken(&far).await;
    near.reaches(&job, "IN_PROGRESS").await;
    loses_one.store(true, Ordering::Relaxed);
    eventually("a question is lost", async || (!loses_one.load(Ordering::Relaxed)).then_some(())).await;
    far.done("f1", id(&there), r#"{"output": "once"}"#).await;
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "once");
    assert_eq!(near.counts.totals("ep").unwrap().returned, 0);
}

#[tokio::test]
async fn a_job_that_only_waited_there_is_sent_again_however_often_it_was_lost() {
    let far = Api::new();
    let near = Near::start(&serve(far.router.clone()).await, AT_ONCE);
    let job = near.api.run(r#"{"input": 1}"#).await;
    for times in 1..=3 {
        let there = eventually("it is there", async || {
            let pending = far.get("requests").await.json();
            pending["requests"][0]["id"].as_str().map(str::to_owned)
        })
        .await;
        far.post(&format!("cancel/{there}"), "").await;
        returned(&near, times).await;
    }
    let there = taken(&far).await;
    far.done("f1", id(&there), r#"{"output": "at last"}"#).await;
    assert_eq!(near.reaches(&job, "COMPLETED").await["output"], "at last");
}
