//! Endpoints: their bounds and settings, and what operators do with all of their jobs.

use std::sync::Arc;
use std::time::Duration;

use runpod_endpoint::store::{Limits, Overrides, Setup, Status, StoreError, WorkerEvent};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, SOON, done, every_store, failed, job_with, new_job, payload, status, submit, take, take_ids,
};

every_store!(
    purge_cancels_what_no_worker_has_taken,
    endpoints_know_nothing_of_each_other,
    endpoints_that_are_not_used_make_room,
    bounds_are_kept,
    endpoints_have_their_own_number_of_retries,
    a_paused_endpoint_gives_out_no_jobs_until_it_is_resumed,
    all_failed_jobs_run_again_at_once,
);

async fn purge_cancels_what_no_worker_has_taken<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for number in 0..5 {
        submit(&*store, &format!("job-{number}")).await;
    }
    take(&*store, "w", 1).await;
    assert_eq!(store.purge(EP).await, Ok(4));
    assert_eq!(store.purge(EP).await, Ok(0));
    assert_eq!(store.purge("unused").await, Ok(0));
    assert_eq!(status(&*store, "job-0").await, Status::InProgress);
    assert_eq!(status(&*store, "job-4").await, Status::Cancelled);
}

async fn endpoints_know_nothing_of_each_other<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for endpoint in ["one", "two"] {
        let job = job_with("same", |request| request.input = payload(&format!("\"{endpoint}\"")));
        store.submit(endpoint, job).await.unwrap();
    }
    let taken = store.take("two", "w", 9, Duration::ZERO).await.unwrap();
    assert_eq!((taken.len(), taken[0].request.input.get()), (1, "\"two\""));
    assert_eq!(store.view("one", "same", None).await.unwrap().status, Status::InQueue);
    assert_eq!(store.view("three", "same", None).await.unwrap_err(), StoreError::JobNotFound);
}

async fn endpoints_that_are_not_used_make_room<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits { worker_retention: Duration::ZERO, ..Limits::default() });
    submit(&*store, "kept").await;
    // Only asked, never used: a thousand is what fits.
    for number in 0..1500 {
        store.stops(&format!("ep-{number}"), "w", Duration::ZERO).await.unwrap();
    }
    let endpoints = store.endpoints().await.unwrap();
    assert_eq!(endpoints.len(), 1000);
    assert!(endpoints.iter().any(|id| id == EP) && !endpoints.iter().any(|id| id == "ep-0"));
    assert_eq!(status(&*store, "kept").await, Status::InQueue);
    for id in endpoints.iter().filter(|id| *id != EP) {
        store.submit(id, new_job("a")).await.unwrap();
    }
    assert_eq!(store.submit("one-more", new_job("a")).await.unwrap_err(), StoreError::TooManyEndpoints);
    drop(store);
    if let Some(store) = engine.reopen() {
        assert_eq!(store.endpoints().await.unwrap(), endpoints);
        assert_eq!(take_ids(&*store, "w", 9).await, ["kept"]);
    }
}

async fn bounds_are_kept<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits { max_jobs: 1, ..Limits::default() });
    submit(&*store, "a").await;
    assert_eq!(store.submit(EP, new_job("b")).await.unwrap_err(), StoreError::QueueFull);
    let store = E::new().open(Limits { max_bytes: 10, ..Limits::default() });
    submit(&*store, "a").await;
    assert_eq!(store.submit(EP, new_job("b")).await.unwrap_err(), StoreError::QueueFull);
    let engine = E::new();
    let store = engine.open(Limits { max_total_stream_bytes: 3, ..Limits::default() });
    for id in ["a", "b"] {
        submit(&*store, id).await;
        take(&*store, "w", 1).await;
    }
    store.stream_item(EP, "w", "a", payload("12")).await.unwrap();
    assert_eq!(store.stream_item(EP, "w", "b", payload("34")).await, Err(StoreError::StreamsFull));
    store.finish(EP, "w", "b", done("1")).await.unwrap();
    assert_eq!(status(&*store, "b").await, Status::Completed, "the result is not lost with the item");
    store.drain(EP, "a", Duration::ZERO).await.unwrap();
    store.stream_item(EP, "w", "a", payload("123")).await.unwrap();
    let store = E::new().open(Limits::default());
    submit(&*store, "a").await;
    assert_eq!(store.submit(EP, new_job("a")).await.unwrap_err(), StoreError::DuplicateJob);
}

async fn endpoints_have_their_own_number_of_retries<E: Engine>() {
    let engine = E::new();
    let own = Overrides { max_retries: Some(0), ..Overrides::default() };
    let setup = Setup { overrides: [("strict".to_owned(), own)].into(), ..Setup::default() };
    let store = engine.open_with(&setup);
    for (endpoint, retries) in [("strict", 0), (EP, 1)] {
        store.submit(endpoint, new_job("a")).await.unwrap();
        for _ in 0..=retries {
            assert_eq!(store.take(endpoint, "w", 1, Duration::ZERO).await.unwrap().len(), 1);
            store.worker_event(endpoint, "w", WorkerEvent::Gone).await.unwrap();
        }
        let ended = store.view(endpoint, "a", None).await.unwrap();
        assert_eq!(ended.ending.error, Some(format!("job timed out after {retries} retries")));
    }
}

async fn a_paused_endpoint_gives_out_no_jobs_until_it_is_resumed<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "running").await;
    take(&*store, "w0", 1).await;
    store.set_paused(EP, true).await.unwrap();
    for id in ["a", "b"] {
        submit(&*store, id).await;
    }
    assert_eq!(take_ids(&*store, "w1", 9).await, [""; 0]);
    let load = store.load(EP).await.unwrap();
    assert_eq!((load.waiting, load.oldest, load.in_progress), (0, None, 1), "no worker is started for what waits");
    store.finish(EP, "w0", "running", done("1")).await.unwrap();
    assert_eq!(status(&*store, "running").await, Status::Completed, "running jobs go on");

    // Every worker that waits is woken, not only one.
    let polls = ["w2", "w3"].map(|worker| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.take(EP, worker, 1, SOON).await.unwrap().len() })
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.set_paused(EP, false).await.unwrap();
    for poll in polls {
        assert_eq!(timeout(SOON, poll).await.unwrap().unwrap(), 1);
    }
}

async fn all_failed_jobs_run_again_at_once<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let ids: Vec<_> = (0..2500).map(|number| format!("job-{number}")).collect();
    for id in &ids {
        submit(&*store, id).await;
    }
    for job in take(&*store, "w", usize::MAX).await {
        let is_good = job.id.ends_with('7');
        store.finish(EP, "w", &job.id, if is_good { done("1") } else { failed("bad") }).await.unwrap();
    }
    let first = store.failed(EP, 0, 2).await.unwrap();
    let shown: Vec<_> = first.entries.iter().map(|row| (&*row.view.id, row.view.ending.error.as_deref())).collect();
    assert_eq!((shown, first.total), (vec![("job-2499", Some("bad")), ("job-2498", Some("bad"))], 2250));
    assert_eq!(store.failed(EP, 2249, 9).await.unwrap().entries.len(), 1);
    assert_eq!(store.retry_failed(EP).await.unwrap().retried, 2250);
    assert_eq!(store.failed(EP, 0, 9).await.unwrap().total, 0);
    assert_eq!(store.retry_failed(EP).await.unwrap().retried, 0);
    let again = take_ids(&*store, "another", usize::MAX).await;
    let bad: Vec<_> = ids.iter().filter(|id| !id.ends_with('7')).cloned().collect();
    assert_eq!(again, bad, "in their old order");
}
