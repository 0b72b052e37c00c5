//! What operators set and clients repeat: how many may wait, how long results stay, who takes turns, keys of submissions.

use std::sync::Arc;
use std::time::Duration;

use runpod_endpoint::store::{
    Idempotency, JobElsewhere, JobId, Limits, NewJob, OVERFLOW, Overdue, Overrides, Policy, RetriedFailed, Setup,
    Status, Store, StoreError,
};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, Memory, SOON, done, every_store, job_with, new_job, output_of, status, submit, take, take_ids, view,
};

fn with_key(id: &str, key: u8, body: u8) -> NewJob {
    job_with(id, |request| request.idempotency = Some(Idempotency { key: [key; 32], body: [body; 32] }))
}

fn of_share(id: &str, share: &str) -> NewJob {
    job_with(id, |request| request.share = Some(share.into()))
}

async fn repeated_submissions_are_one_job<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let id_of = async |store: &dyn Store, job: NewJob| store.submit(EP, job).await.map(|job| job.id.to_string());
    assert_eq!(id_of(&*store, with_key("a", 1, 1)).await.as_deref(), Ok("a"));
    assert_eq!(id_of(&*store, with_key("b", 1, 1)).await.as_deref(), Ok("a"));
    assert_eq!(id_of(&*store, with_key("b", 1, 2)).await, Err(StoreError::KeyReused));
    assert_eq!(id_of(&*store, with_key("b", 2, 1)).await.as_deref(), Ok("b"), "another key");
    let elsewhere = store.submit("other", with_key("a2", 1, 2)).await.unwrap();
    assert_eq!(&*elsewhere.id, "a2", "another endpoint");
    assert_eq!(take_ids(&*store, "w", 9).await, ["a", "b"]);
    store.finish(EP, "w", "a", done("7")).await.unwrap();
    let repeated = store.submit(EP, with_key("c", 1, 1)).await.unwrap();
    assert_eq!((&*repeated.id, repeated.status, output_of(&repeated)), ("a", Status::Completed, Some("7")));
    drop(store);
    if let Some(store) = engine.reopen() {
        assert_eq!(id_of(&*store, with_key("c", 1, 1)).await.as_deref(), Ok("a"));
        assert_eq!(id_of(&*store, with_key("c", 1, 2)).await, Err(StoreError::KeyReused));
        assert_eq!(store.view(EP, "c", None).await.unwrap_err(), StoreError::JobNotFound);
        // The record and its key go together.
        store.view(EP, "a", Some(Duration::ZERO)).await.unwrap();
        assert_eq!(store.view(EP, "a", None).await.unwrap_err(), StoreError::JobNotFound);
        assert_eq!(id_of(&*store, with_key("c", 1, 2)).await.as_deref(), Ok("c"));
    }
}

async fn concurrent_repetitions_are_one_job<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let store = Arc::clone(&store);
        callers.spawn(async move { store.submit(EP, with_key(&format!("job-{number}"), 1, 1)).await.unwrap().id });
    }
    let ids = timeout(SOON, callers.join_all()).await.unwrap();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(store.health(EP).await.unwrap().in_queue, 1);
}

async fn more_jobs_than_may_wait_are_refused_and_leave_nothing<E: Engine>() {
    let engine = E::new();
    let own = Overrides { max_queued: Some(1), ..Overrides::default() };
    let limits = Limits { max_queued: Some(2), ..Limits::default() };
    let store = engine.open_with(&Setup { limits, overrides: [("small".to_owned(), own)].into(), ..Setup::default() });
    for id in ["a", "b"] {
        submit(&*store, id).await;
    }
    assert_eq!(store.submit(EP, with_key("c", 1, 1)).await.unwrap_err(), StoreError::TooManyQueued(2));
    assert_eq!(store.view(EP, "c", None).await.unwrap_err(), StoreError::JobNotFound);
    store.submit("small", new_job("a")).await.unwrap();
    assert_eq!(store.submit("small", new_job("b")).await.unwrap_err(), StoreError::TooManyQueued(1));
    take(&*store, "w", 1).await;
    // The key of a refused job was not used: another body may have it.
    assert_eq!(&*store.submit(EP, with_key("d", 1, 2)).await.unwrap().id, "d");
    assert_eq!(&*store.submit(EP, with_key("e", 1, 2)).await.unwrap().id, "d", "a repetition needs no room");
    // What comes back is never refused, and `/retry` adds a job like any other.
    assert_eq!(store.hand_back(EP, "w", &["a".into()]).await, Ok(1));
    assert_eq!(store.health(EP).await.unwrap().in_queue, 3);
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "a", crate::support::failed("no")).await.unwrap();
    assert_eq!(store.retry(EP, "a").await.unwrap_err(), StoreError::TooManyQueued(2));
    assert_eq!(status(&*store, "a").await, Status::Failed);
}

async fn failed_jobs_are_retried_until_as_many_wait_as_may<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits { max_queued: Some(3), ..Limits::default() });
    for id in ["a", "b", "c"] {
        submit(&*store, id).await;
    }
    for id in take_ids(&*store, "w", 9).await {
        store.finish(EP, "w", &id, crate::support::failed("no")).await.unwrap();
    }
    let retry = async || store.retry_failed(EP).await.unwrap();
    let left = |retried, left| RetriedFailed { retried, left, refusal: Some(StoreError::TooManyQueued(3)) };
    submit(&*store, "waits").await;
    assert_eq!(retry().await, left(2, 1));
    assert_eq!(retry().await, left(0, 1));
    // The first worker has failed too often.
    assert_eq!(take_ids(&*store, "another", 9).await, ["waits", "a", "b"], "the oldest ones");
    assert_eq!(retry().await, RetriedFailed { retried: 1, ..RetriedFailed::default() });
}

#[tokio::test]
async fn requests_of_a_batch_neither_use_up_nor_need_the_room_for_jobs_that_wait() {
    let store = Memory::new().open(Limits { max_queued: Some(1), ..Limits::default() });
    store.create_batch(EP, "batch".into(), vec![new_job("1"), new_job("2")]).await.unwrap();
    store.finalize_batch(EP, "batch").await.unwrap();
    submit(&*store, "a").await;
    assert_eq!(store.submit(EP, new_job("b")).await.unwrap_err(), StoreError::TooManyQueued(1));
    assert_eq!(take_ids(&*store, "w", 2).await, ["a", "1"]);
    submit(&*store, "b").await;
    store.finish(EP, "w", "1", crate::support::failed("no")).await.unwrap();
    assert_eq!(store.retry_failed(EP).await.unwrap().retried, 1, "it is of a batch");
    assert_eq!(store.submit(EP, new_job("c")).await.unwrap_err(), StoreError::TooManyQueued(1));
}

async fn shares_take_turns<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for number in 1..=4 {
        store.submit(EP, of_share(&format!("a{number}"), "a")).await.unwrap();
    }
    for number in 1..=2 {
        store.submit(EP, of_share(&format!("b{number}"), "b")).await.unwrap();
    }
    store.submit(EP, of_share("none", "")).await.unwrap();
    assert_eq!(take_ids(&*store, "w", 4).await, ["a1", "b1", "none", "a2"]);
    assert_eq!(store.hand_back(EP, "w", &["a2".into()]).await, Ok(1));
    drop(store);
    let Some(store) = engine.reopen() else { return };
    store.submit(EP, of_share("b3", "b")).await.unwrap();
    assert_eq!(take_ids(&*store, "w", 9).await, ["a2", "b2", "a3", "b3", "a4"]);
}

async fn late_jobs_are_given_to_the_overflow_once<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let low = job_with("low", |request| request.policy.low_priority = true);
    store.submit(EP, low).await.unwrap();
    for id in ["a", "b", "c"] {
        submit(&*store, id).await;
    }
    let late = |max, after: u64| {
        let (after, except) = (Duration::from_secs(after), ["a".into()].into());
        Overdue { max, after, except, ..Overdue::default() }
    };
    assert_eq!(store.elsewhere(EP).await.unwrap(), []);
    assert!(store.take_overdue(EP, &late(9, 3600)).await.unwrap().is_empty(), "nothing has waited for that long");
    assert!(store.take_overdue(EP, &late(0, 0)).await.unwrap().is_empty());
    let short = Overdue { run_time: Some(Duration::from_secs(1)), ..late(1, 0) };
    assert!(store.take_overdue(EP, &short).await.unwrap().is_empty(), "all of them may run for longer");
    let second = job_with("short", |request| request.policy.execution_timeout = Some(Duration::from_secs(1)));
    store.submit(EP, second).await.unwrap();
    assert_eq!(&*store.take_overdue(EP, &short).await.unwrap()[0].id, "short", "though others wait before it");
    store.cancel(EP, "short").await.unwrap();
    let taken = store.take_overdue(EP, &late(9, 0)).await.unwrap();
    let ids: Vec<_> = taken.iter().map(|job| (&*job.id, job.request.input.get())).collect();
    assert_eq!(ids, [("b", "\"input of b\""), ("c", "\"input of c\"")], "neither the excepted one nor low priority");
    assert!(store.take_overdue(EP, &late(9, 0)).await.unwrap().is_empty());
    assert_eq!(status(&*store, "b").await, Status::InQueue, "it waits there");
    let again = store.taken_elsewhere(EP, "c").await.unwrap().unwrap();
    assert_eq!((&*again.id, again.request.input.get(), again.attempt), ("c", "\"input of c\"", 1));
    assert!(store.taken_elsewhere(EP, "a").await.unwrap().is_none());
    assert_eq!(take_ids(&*store, "w", 9).await, ["a", "low"]);
    let load = store.load(EP).await.unwrap();
    let reason = "no worker is started for what is elsewhere, and one is enough for low priority";
    assert_eq!((load.in_progress, load.background), (1, true), "{reason}");
    store.accepted_elsewhere(EP, "b", "far-b").await.unwrap();
    store.begun_elsewhere(EP, "b", Duration::from_secs(1)).await.unwrap();
    store.accepted_elsewhere(EP, "unknown", "far").await.unwrap();
    drop(store);
    let Some(store) = engine.reopen() else { return };
    let far = |id: &str, far_id: Option<&str>, has_begun| JobElsewhere {
        id: id.into(),
        far_id: far_id.map(Into::into),
        has_begun,
        run_time: Policy::EXECUTION_TIMEOUT,
    };
    assert_eq!(store.elsewhere(EP).await.unwrap(), [far("b", Some("far-b"), true), far("c", None, false)]);
    assert_eq!(status(&*store, "b").await, Status::InProgress);
    assert_eq!(store.hand_back(EP, OVERFLOW, &["c".into()]).await, Ok(1));
    store.finish(EP, OVERFLOW, "b", done("7")).await.unwrap();
    assert_eq!(output_of(&view(&*store, "b").await), Some("7"));
    assert_eq!(store.elsewhere(EP).await.unwrap(), []);
    assert_eq!(take_ids(&*store, "w", 9).await, ["c"]);
}

/// Everything that waits, at once.
fn overdue() -> Overdue {
    Overdue { max: 9, ..Overdue::default() }
}

async fn jobs_that_wait_elsewhere_are_in_the_queue_and_are_purged<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["waits", "runs"] {
        submit(&*store, id).await;
    }
    assert_eq!(store.take_overdue(EP, &overdue()).await.unwrap().len(), 2);
    store.begun_elsewhere(EP, "runs", Duration::ZERO).await.unwrap();
    for id in ["own", "here"] {
        submit(&*store, id).await;
    }
    assert_eq!(take_ids(&*store, "w", 1).await, ["own"]);
    let health = store.health(EP).await.unwrap();
    assert_eq!((health.in_queue, health.elsewhere, health.in_progress), (2, 1, 2));
    assert_eq!(store.load(EP).await.unwrap().in_progress, 1);
    assert_eq!(store.purge(EP).await, Ok(2));
    for (id, expected) in [
        ("waits", Status::Cancelled),
        ("here", Status::Cancelled),
        ("runs", Status::InProgress),
        ("own", Status::InProgress),
    ] {
        assert_eq!(status(&*store, id).await, expected, "{id}");
    }
    let health = store.health(EP).await.unwrap();
    assert_eq!((health.in_queue, health.elsewhere, health.in_progress), (0, 0, 2));
    let stops = store.stops(EP, OVERFLOW, Duration::ZERO).await.unwrap();
    assert_eq!(stops, [JobId::from("waits")], "the other endpoint is told");
}

async fn a_hand_over_lasts_until_the_other_endpoint_is_known_not_to_have_the_job<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    let first = store.take_overdue(EP, &overdue()).await.unwrap().remove(0);
    assert_eq!(first.handover.number, 0);
    // Nobody knows whether it was accepted: it comes back, and is tried again.
    let again = async |store: &dyn Store, attempt: u32| {
        assert_eq!(store.hand_back(EP, OVERFLOW, &["a".into()]).await, Ok(1));
        let again = store.take_overdue(EP, &overdue()).await.unwrap().remove(0);
        let since = [again.handover.since, first.handover.since].map(|since| since.as_millis());
        assert_eq!((again.attempt, again.handover.number, since[0]), (attempt, 0, since[1]));
        assert!(store.cancels_elsewhere(EP).await.unwrap().is_empty());
    };
    again(&*store, 2).await;
    drop(store);
    let Some(store) = engine.reopen() else { return };
    again(&*store, 3).await;
    // It was accepted, and lost.
    store.accepted_elsewhere(EP, "a", "far-1").await.unwrap();
    assert_eq!(store.hand_back(EP, OVERFLOW, &["a".into()]).await, Ok(1));
    let next = store.take_overdue(EP, &overdue()).await.unwrap().remove(0);
    assert_eq!(next.handover.number, 1);
    assert!(next.handover.since >= first.handover.since);
}

async fn what_is_cancelled_here_is_to_be_cancelled_elsewhere_until_that_is_done<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["cancelled", "returned", "ended", "unsure", "other"] {
        submit(&*store, id).await;
    }
    assert_eq!(store.take_overdue(EP, &overdue()).await.unwrap().len(), 5);
    for id in ["cancelled", "returned", "ended", "other"] {
        store.accepted_elsewhere(EP, id, &format!("far-{id}")).await.unwrap();
    }
    store.cancel(EP, "cancelled").await.unwrap();
    store.finish(EP, OVERFLOW, "ended", done("1")).await.unwrap();
    // What was sent before the cancel is accepted after it.
    store.cancel(EP, "unsure").await.unwrap();
    store.accepted_elsewhere(EP, "unsure", "far-unsure").await.unwrap();
    // A worker that was thought lost has its result after all.
    store.finish(EP, "w", "other", done("1")).await.unwrap();
    assert_eq!(store.hand_back(EP, OVERFLOW, &["returned".into()]).await, Ok(1));
    let expected = ["cancelled", "other", "returned", "unsure"];
    let cancels = async |store: &dyn Store| {
        let found = store.cancels_elsewhere(EP).await.unwrap();
        let mut found: Vec<_> = found.into_iter().map(|job| (job.id.to_string(), job.far_id.to_string())).collect();
        found.sort_unstable();
        found
    };
    let pair = |id: &str| (id.to_owned(), format!("far-{id}"));
    assert_eq!(cancels(&*store).await, expected.map(pair));
    drop(store);
    let Some(store) = engine.reopen() else { return };
    assert_eq!(cancels(&*store).await, expected.map(pair), "after a restart too");
    store.cancelled_elsewhere(EP, "cancelled", "another").await.unwrap();
    for id in ["cancelled", "returned", "unsure", "unknown"] {
        store.cancelled_elsewhere(EP, id, &format!("far-{id}")).await.unwrap();
    }
    assert_eq!(cancels(&*store).await, [pair("other")]);
    assert_eq!(take_ids(&*store, "w", 9).await, ["returned"]);
}

async fn results_are_kept_for_as_long_as_the_operator_wants<E: Engine>() {
    let engine = E::new();
    let own = Overrides { retention: Some(Duration::from_secs(3600)), ..Overrides::default() };
    let setup = Setup { overrides: [("kept".to_owned(), own)].into(), ..Setup::default() };
    let store = engine.open_with(&setup);
    let short = || {
        job_with("a", |request| {
            request.retention = Duration::from_millis(1);
            request.policy = Policy { ttl: Duration::from_millis(2500), ..Policy::default() };
        })
    };
    for endpoint in ["kept", EP] {
        store.submit(endpoint, short()).await.unwrap();
        store.take(endpoint, "w", 1, Duration::ZERO).await.unwrap();
        store.finish(endpoint, "w", "a", done("7")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(2800)).await;
    assert_eq!(
        output_of(&store.view("kept", "a", None).await.unwrap()),
        Some("7"),
        "its ttl was for the time before its end"
    );
    assert_eq!(store.view(EP, "a", None).await.unwrap_err(), StoreError::JobNotFound);
    drop(store);
    if let Some(store) = engine.reopen() {
        assert_eq!(output_of(&store.view("kept", "a", None).await.unwrap()), Some("7"));
    }
}

async fn kept_results_make_room_for_new_jobs<E: Engine>() {
    let engine = E::new();
    let limits = Limits { max_jobs: 3, retention: Some(Duration::from_secs(3600)), ..Limits::default() };
    let store = engine.open(limits);
    for id in ["a", "b", "c"] {
        submit(&*store, id).await;
    }
    assert_eq!(store.submit(EP, new_job("d")).await.unwrap_err(), StoreError::QueueFull, "none of them has ended");
    take(&*store, "w", 2).await;
    for id in ["b", "a"] {
        store.finish(EP, "w", id, done("7")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    submit(&*store, "d").await;
    assert_eq!(store.view(EP, "b", None).await.unwrap_err(), StoreError::JobNotFound, "the oldest result");
    assert_eq!(view(&*store, "a").await.status, Status::Completed);
    assert_eq!(take_ids(&*store, "w", 9).await, ["c", "d"]);
}

every_store!(
    repeated_submissions_are_one_job,
    concurrent_repetitions_are_one_job,
    more_jobs_than_may_wait_are_refused_and_leave_nothing,
    failed_jobs_are_retried_until_as_many_wait_as_may,
    shares_take_turns,
    late_jobs_are_given_to_the_overflow_once,
    jobs_that_wait_elsewhere_are_in_the_queue_and_are_purged,
    a_hand_over_lasts_until_the_other_endpoint_is_known_not_to_have_the_job,
    what_is_cancelled_here_is_to_be_cancelled_elsewhere_until_that_is_done,
    results_are_kept_for_as_long_as_the_operator_wants,
    kept_results_make_room_for_new_jobs,
);
