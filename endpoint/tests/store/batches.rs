//! Batches, as every store must keep them.

use std::time::Duration;

use end_to_end_tests::eventually;
use runpod_endpoint::store::{BatchState, Limits, Load, NewJob, RetriedFailed, Status, Store, StoreError};

use crate::support::{EP, Engine, done, every_store, failed, new_job, output_of, submit, take, take_ids, view};

every_store!(
    nothing_of_a_draft_runs_until_it_is_finalized,
    the_requests_of_a_batch_run_when_no_other_job_waits_and_need_one_worker,
    results_are_read_in_the_order_of_the_requests,
    cancelling_ends_what_waits_and_lets_what_runs_end,
    a_retried_request_reopens_its_batch,
    batches_have_bounds_and_leave_room_for_other_jobs,
    a_batch_is_deleted_with_its_requests,
    a_draft_is_not_purged_and_counts_only_once_it_is_finalized,
    failed_requests_of_a_cancelled_batch_are_left_with_the_reason,
);

fn jobs(ids: impl IntoIterator<Item = &'static str>) -> Vec<NewJob> {
    ids.into_iter().map(new_job).collect()
}

async fn finalized(store: &dyn Store, id: &str, requests: Vec<NewJob>) {
    store.create_batch(EP, id.into(), requests).await.unwrap();
    store.finalize_batch(EP, id).await.unwrap();
}

async fn nothing_of_a_draft_runs_until_it_is_finalized<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    assert_eq!(store.batch(EP, "b").await, Err(StoreError::BatchNotFound));
    let draft = store.create_batch(EP, "b".into(), jobs(["1"])).await.unwrap();
    assert_eq!((draft.state, draft.counts.waiting, draft.counts.total()), (BatchState::Draft, 1, 1));
    assert_eq!(store.create_batch(EP, "b".into(), Vec::new()).await, Err(StoreError::DuplicateJob));
    store.add_to_batch(EP, "b", jobs(["2", "3"])).await.unwrap();
    assert_eq!(take_ids(&*store, "w", 9).await, [""; 0]);
    assert_eq!(store.remove_from_batch(EP, "b", "unknown").await, Err(StoreError::JobNotFound));
    assert_eq!(store.remove_from_batch(EP, "b", "2").await.unwrap().counts.total(), 2);
    assert_eq!(store.view(EP, "2", None).await.unwrap_err(), StoreError::JobNotFound);
    store.finalize_batch(EP, "b").await.unwrap();
    for refused in [
        store.add_to_batch(EP, "b", jobs(["4"])).await,
        store.finalize_batch(EP, "b").await,
        store.remove_from_batch(EP, "b", "1").await,
    ] {
        assert_eq!(refused, Err(StoreError::BatchState(BatchState::Finalized)));
    }
    for unknown in [
        store.add_to_batch(EP, "other", jobs(["4"])).await,
        store.finalize_batch(EP, "other").await,
        store.cancel_batch("unused", "b").await,
        store.rename_batch("unused", "b", None).await,
    ] {
        assert_eq!(unknown, Err(StoreError::BatchNotFound));
    }
    let taken = take(&*store, "w", 9).await;
    assert_eq!(taken.iter().map(|job| &*job.id).collect::<Vec<_>>(), ["1", "3"]);
    assert!(taken.iter().all(|job| job.request.batch.as_deref() == Some("b")));
    store.create_batch(EP, "empty".into(), Vec::new()).await.unwrap();
    assert_eq!(store.finalize_batch(EP, "empty").await, Err(StoreError::EmptyBatch));
}

async fn the_requests_of_a_batch_run_when_no_other_job_waits_and_need_one_worker<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    finalized(&*store, "b", jobs(["1", "2", "3"])).await;
    let load = || async {
        let Load { waiting, in_progress, background, .. } = store.load(EP).await.unwrap();
        (waiting, in_progress, background)
    };
    let seen = || async {
        let seen = store.observe(EP).await.unwrap();
        (seen.waiting(), seen.batch_requests.waiting, seen.batch_requests.in_progress, seen.oldest_wait.is_some())
    };
    assert_eq!(load().await, (0, 0, true));
    assert_eq!(seen().await, (0, 3, 0, false), "they wait by design");
    submit(&*store, "urgent").await;
    assert_eq!(load().await, (1, 0, true));
    assert_eq!(seen().await, (1, 3, 0, true));
    assert_eq!(take_ids(&*store, "w", 2).await, ["urgent", "1"]);
    assert_eq!(load().await, (0, 1, true));
    assert_eq!(seen().await, (0, 2, 1, false));
    assert_eq!(take_ids(&*store, "w", 9).await, ["2", "3"]);
    assert_eq!(load().await, (0, 1, true), "they run beside the other jobs, whose number asks for workers");
    for id in ["1", "2", "3"] {
        store.finish(EP, "w", id, done("1")).await.unwrap();
    }
    assert_eq!((load().await, seen().await), ((0, 1, false), (0, 0, 0, false)));
    assert_eq!(store.observe(EP).await.unwrap().totals.delay.count(), 1, "of the job that somebody waited for");
}

async fn results_are_read_in_the_order_of_the_requests<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    finalized(&*store, "old", jobs(["0"])).await;
    finalized(&*store, "b", jobs(["1", "2", "3"])).await;
    store.rename_batch(EP, "b", Some("nightly".into())).await.unwrap();
    take(&*store, "w", 3).await;
    store.finish(EP, "w", "2", failed("bad")).await.unwrap();
    store.finish(EP, "w", "1", done("{\"n\": 1.50}")).await.unwrap();
    results_are_there(&*store).await;
    drop(store);
    if let Some(store) = engine.reopen() {
        results_are_there(&*store).await;
    }
}

async fn results_are_there(store: &dyn Store) {
    let batch = store.batch(EP, "b").await.unwrap();
    assert_eq!((batch.state, batch.name.as_deref()), (BatchState::Finalized, Some("nightly")));
    let counts = batch.counts;
    assert_eq!((counts.waiting, counts.in_progress, counts.completed, counts.failed, counts.total()), (1, 0, 1, 1, 3));
    let page = store.batch_requests(EP, "b", 0, 2).await.unwrap();
    let seen = |number: usize| {
        let request = &page.entries[number];
        (&*request.view.id, output_of(&request.view), request.started.is_some(), request.completed.is_some())
    };
    assert_eq!((seen(0), seen(1)), (("1", Some("{\"n\": 1.50}"), true, true), ("2", None, true, true)));
    assert_eq!((page.entries.len(), page.total), (2, 3));
    let rest = store.batch_requests(EP, "b", 2, 9).await.unwrap();
    assert_eq!((&*rest.entries[0].view.id, rest.entries[0].completed, rest.total), ("3", None, 3));
    let newest = store.batches(EP, 0, 1).await.unwrap();
    assert_eq!((newest.entries, newest.total), (vec![batch], 2));
    assert_eq!(&*store.batches(EP, 1, 9).await.unwrap().entries[0].id, "old");
    assert_eq!(store.batches("unused", 0, 9).await.unwrap().total, 0);
    assert_eq!(store.batch_requests(EP, "unknown", 0, 9).await.unwrap_err(), StoreError::BatchNotFound);
}

async fn cancelling_ends_what_waits_and_lets_what_runs_end<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    finalized(&*store, "b", jobs(["1", "2", "3"])).await;
    take(&*store, "w", 2).await;
    let batch = store.cancel_batch(EP, "b").await.unwrap();
    assert_eq!((batch.state, batch.counts.cancelled, batch.counts.in_progress), (BatchState::Cancelling, 1, 2));
    assert_eq!(store.stops(EP, "w", Duration::ZERO).await.unwrap().len(), 0, "what runs gets no stop signal");
    store.finish(EP, "w", "1", done("1")).await.unwrap();
    // Handed back, it waits, and so it is cancelled.
    assert_eq!(store.hand_back(EP, "w", &["2".into()]).await, Ok(1));
    let batch = store.batch(EP, "b").await.unwrap();
    assert_eq!((batch.state, batch.counts.cancelled, batch.counts.completed), (BatchState::Cancelled, 2, 1));
    assert_eq!(store.cancel_batch(EP, "b").await.unwrap().state, BatchState::Cancelled);
    assert_eq!(take_ids(&*store, "w", 9).await, [""; 0]);
}

async fn a_retried_request_reopens_its_batch<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits { max_batches: 1, ..Limits::default() });
    finalized(&*store, "b", jobs(["1"])).await;
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "1", failed("bad")).await.unwrap();
    assert_eq!(store.batch(EP, "b").await.unwrap().counts.failed, 1);
    store.retry(EP, "1").await.unwrap();
    let counts = store.batch(EP, "b").await.unwrap().counts;
    assert_eq!((counts.waiting, counts.failed), (1, 0));
    assert_eq!(
        store.create_batch(EP, "c".into(), Vec::new()).await,
        Err(StoreError::TooManyBatches(1)),
        "it has not ended any more"
    );
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "1", done("1")).await.unwrap();
    assert_eq!(store.batch(EP, "b").await.unwrap().counts.completed, 1);
    store.create_batch(EP, "c".into(), Vec::new()).await.unwrap();
}

async fn batches_have_bounds_and_leave_room_for_other_jobs<E: Engine>() {
    let engine = E::new();
    let limits = Limits { max_batches: 1, max_batch_requests: 3, max_jobs: 4, ..Limits::default() };
    let store = engine.open(limits);
    store.create_batch(EP, "b".into(), Vec::new()).await.unwrap();
    assert_eq!(store.create_batch(EP, "c".into(), Vec::new()).await, Err(StoreError::TooManyBatches(1)));
    assert_eq!(store.add_to_batch(EP, "b", jobs(["1", "2", "3", "4"])).await, Err(StoreError::BatchTooLarge(3)));
    assert_eq!(store.add_to_batch(EP, "b", jobs(["1", "2", "3"])).await, Err(StoreError::QueueFull));
    assert_eq!(store.batch(EP, "b").await.unwrap().counts.total(), 0, "all or none");
    store.add_to_batch(EP, "b", jobs(["1", "2"])).await.unwrap();
    assert_eq!(store.add_to_batch(EP, "b", jobs(["3"])).await, Err(StoreError::QueueFull));
    submit(&*store, "other").await;
    store.cancel_batch(EP, "b").await.unwrap();
    store.create_batch(EP, "c".into(), Vec::new()).await.unwrap();
    assert_eq!(store.add_to_batch(EP, "c", jobs(["3"])).await, Err(StoreError::QueueFull), "results count too");
}

async fn a_batch_is_deleted_with_its_requests<E: Engine>() {
    // More than are deleted at once.
    const REQUESTS: usize = 1100;
    let engine = E::new();
    let store = engine.open(Limits { batch_retention: Duration::from_secs(2), ..Limits::default() });
    let requests = (0..REQUESTS).map(|number| new_job(&format!("job-{number}"))).collect();
    store.create_batch(EP, "b".into(), requests).await.unwrap();
    store.cancel_batch(EP, "b").await.unwrap();
    submit(&*store, "other").await;
    eventually("the batch to expire", || async {
        let last = store.view(EP, &format!("job-{}", REQUESTS - 1), None).await;
        (store.batch(EP, "b").await.is_err() && last.is_err()).then_some(())
    })
    .await;
    for number in 0..REQUESTS {
        eventually("every request to go with its batch", || async {
            store.view(EP, &format!("job-{number}"), None).await.err()
        })
        .await;
    }
    assert_eq!(store.batches(EP, 0, 9).await.unwrap().total, 0);
    assert_eq!(view(&*store, "other").await.status, Status::InQueue);
    // Its place and its id are free again.
    store.create_batch(EP, "b".into(), jobs(["job-0"])).await.unwrap();
}

async fn a_draft_is_not_purged_and_counts_only_once_it_is_finalized<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    store.create_batch(EP, "b".into(), jobs(["1", "2"])).await.unwrap();
    assert_eq!(store.health(EP).await.unwrap().in_queue, 0);
    assert_eq!(store.purge(EP).await, Ok(0));
    store.finalize_batch(EP, "b").await.unwrap();
    assert_eq!(store.health(EP).await.unwrap().in_queue, 2);
    assert_eq!(store.purge(EP).await, Ok(2));
    let batch = store.batch(EP, "b").await.unwrap();
    assert_eq!((batch.counts.cancelled, store.health(EP).await.unwrap().in_queue), (2, 0));
}

async fn failed_requests_of_a_cancelled_batch_are_left_with_the_reason<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    finalized(&*store, "b", jobs(["1", "2"])).await;
    assert_eq!(take_ids(&*store, "w", 1).await, ["1"]);
    submit(&*store, "other").await;
    assert_eq!(take_ids(&*store, "w", 1).await, ["other"]);
    for id in ["1", "other"] {
        store.finish(EP, "w", id, failed("bad")).await.unwrap();
    }
    store.cancel_batch(EP, "b").await.unwrap();
    let left = |retried| RetriedFailed { retried, left: 1, refusal: Some(StoreError::BatchCancelled) };
    assert_eq!(store.retry_failed(EP).await, Ok(left(1)), "the others are queued again");
    assert_eq!(store.retry_failed(EP).await, Ok(left(0)));
}
