//! What clients see of a job, from its first progress to the end of its record.

use std::time::Duration;

use runpod_endpoint::store::{Limits, Outcome, Status, StoreError, WebhookEnd};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, SOON, done, every_store, failed, job_with, output_of, payload, status, submit, take, take_ids, until,
    view,
};

every_store!(
    the_first_result_wins,
    progress_shows_until_the_result_replaces_it,
    stream_items_are_read_once_and_in_order,
    a_stream_reader_is_woken,
    a_waiting_reader_is_woken_by_the_end,
    a_cancelled_job_is_never_delivered,
    a_failed_job_runs_again_when_retried,
    a_record_ends_with_its_ttl,
    a_result_ends_with_its_retention,
    a_job_over_its_run_time_fails_and_its_worker_gets_a_stop_signal,
    a_job_is_kept_until_its_webhook_is_delivered,
);

async fn the_first_result_wins<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    store.finish(EP, "w", "a", done("0")).await.unwrap();
    assert_eq!(status(&*store, "a").await, Status::InQueue, "nobody has taken the job");
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    store.finish(EP, "w", "a", failed("late")).await.unwrap();
    store.finish(EP, "w", "unknown", done("2")).await.unwrap();
    let ended = view(&*store, "a").await;
    assert_eq!((ended.status, output_of(&ended), ended.ending.error.as_deref()), (Status::Completed, Some("1"), None));
    assert!(ended.attempt.delay.is_some() && ended.attempt.execution.is_some());
    assert_eq!(ended.attempt.worker.as_deref(), Some("w"));
    let health = store.health(EP).await.unwrap();
    assert_eq!((health.completed, health.failed, health.in_progress, health.in_queue), (1, 0, 0, 0));
}

async fn progress_shows_until_the_result_replaces_it<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    for step in ["1", "2"] {
        store.progress(EP, "w", "a", Some(payload(step))).await.unwrap();
    }
    store.progress(EP, "other", "a", Some(payload("3"))).await.unwrap();
    let running = view(&*store, "a").await;
    assert_eq!((running.status, output_of(&running)), (Status::InProgress, Some("2")));
    store.finish(EP, "w", "a", Outcome::default()).await.unwrap();
    assert_eq!(output_of(&view(&*store, "a").await), None);
}

async fn stream_items_are_read_once_and_in_order<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits { max_stream_bytes: 4, ..Limits::default() });
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    let read = async || {
        let (status, items) = store.drain(EP, "a", Duration::ZERO).await.unwrap();
        (status, items.iter().map(|item| item.get().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(read().await, (Status::InProgress, vec![]));
    for item in ["1", "2"] {
        store.stream_item(EP, "w", "a", payload(item)).await.unwrap();
    }
    assert_eq!(read().await.1, ["1", "2"]);
    for item in ["3", "4", "5", "6"] {
        store.stream_item(EP, "w", "a", payload(item)).await.unwrap();
    }
    assert_eq!(store.stream_item(EP, "w", "a", payload("7")).await, Err(StoreError::StreamFull));
    store.finish(EP, "w", "a", done("[]")).await.unwrap();
    store.stream_item(EP, "w", "a", payload("8")).await.unwrap();
    assert_eq!(read().await, (Status::Completed, ["3", "4", "5", "6"].map(String::from).to_vec()));
    assert_eq!(read().await, (Status::Completed, vec![]));
}

async fn a_stream_reader_is_woken<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    let reading = store.drain(EP, "a", SOON * 10);
    let writing = store.stream_item(EP, "w", "a", payload("1"));
    let (read, written) = timeout(SOON, async { tokio::join!(reading, writing) }).await.unwrap();
    written.unwrap();
    assert_eq!(read.unwrap().1[0].get(), "1");
}

async fn a_waiting_reader_is_woken_by_the_end<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    let waiting = store.wait_finished(EP, "a", SOON * 10);
    let ending = store.finish(EP, "w", "a", done("1"));
    let (ended, finished) = timeout(SOON, async { tokio::join!(waiting, ending) }).await.unwrap();
    finished.unwrap();
    assert_eq!(output_of(&ended.unwrap()), Some("1"));
    submit(&*store, "b").await;
    assert_eq!(store.wait_finished(EP, "b", Duration::ZERO).await.unwrap().status, Status::InQueue);
    assert_eq!(store.wait_finished(EP, "unknown", SOON).await.unwrap_err(), StoreError::JobNotFound);
}

async fn a_cancelled_job_is_never_delivered<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["queued", "running"] {
        submit(&*store, id).await;
    }
    store.cancel(EP, "queued").await.unwrap();
    assert_eq!(take_ids(&*store, "w", 9).await, ["running"]);
    assert_eq!(store.cancel(EP, "running").await.unwrap().status, Status::Cancelled);
    assert_eq!(store.stops(EP, "w", SOON).await.unwrap(), ["running".into()]);
    store.finish(EP, "w", "running", done("1")).await.unwrap();
    assert_eq!(status(&*store, "running").await, Status::Cancelled);
    assert_eq!(store.drain(EP, "running", Duration::ZERO).await.unwrap().0, Status::Cancelled);
    assert_eq!(store.drain(EP, "running", Duration::ZERO).await.unwrap_err(), StoreError::StreamEnded);
    assert_eq!(store.cancel(EP, "unknown").await.unwrap_err(), StoreError::JobNotFound);
}

async fn a_failed_job_runs_again_when_retried<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["a", "b"] {
        submit(&*store, id).await;
    }
    assert_eq!(store.retry(EP, "a").await.unwrap_err(), StoreError::NotRetryable(Status::InQueue));
    take(&*store, "w", 1).await;
    let mut outcome = failed("bad");
    outcome.ending.output = Some(payload("1"));
    store.finish(EP, "w", "a", outcome).await.unwrap();
    let ended = view(&*store, "a").await;
    assert_eq!((ended.ending.error.as_deref(), output_of(&ended)), (Some("bad"), Some("1")));
    let again = store.retry(EP, "a").await.unwrap();
    assert_eq!((again.status, again.ending.error.as_deref(), output_of(&again)), (Status::InQueue, None, None));
    let jobs = take(&*store, "w", 2).await;
    assert_eq!([&*jobs[0].id, &*jobs[1].id], ["b", "a"]);
    assert_eq!(jobs[1].request.input.get(), "\"input of a\"");
}

async fn a_record_ends_with_its_ttl<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let job = job_with("a", |request| request.policy.ttl = Duration::from_millis(50));
    store.submit(EP, job).await.unwrap();
    until(&*store, "a", |job| job.err() == Some(&StoreError::JobNotFound)).await;
    assert_eq!(take_ids(&*store, "w", 1).await, Vec::<String>::new());
}

async fn a_result_ends_with_its_retention<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["a", "b"] {
        let job = job_with(id, |request| request.retention = Duration::from_millis(50));
        store.submit(EP, job).await.unwrap();
    }
    take(&*store, "w", 2).await;
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    until(&*store, "a", |job| job.err() == Some(&StoreError::JobNotFound)).await;
    assert_eq!(status(&*store, "b").await, Status::InProgress);
    store.finish(EP, "w", "b", done("1")).await.unwrap();
    let shortened = store.view(EP, "b", Some(Duration::ZERO)).await.err();
    assert!(shortened.is_none_or(|error| error == StoreError::JobNotFound));
    until(&*store, "b", |job| job.err() == Some(&StoreError::JobNotFound)).await;
}

async fn a_job_over_its_run_time_fails_and_its_worker_gets_a_stop_signal<E: Engine>() {
    let engine = E::new();
    let limits = Limits { timeout_status: Status::TimedOut, timeout_grace: Duration::ZERO, ..Limits::default() };
    let store = engine.open(limits);
    let job = job_with("a", |request| request.policy.execution_timeout = Some(Duration::from_millis(50)));
    store.submit(EP, job).await.unwrap();
    take(&*store, "w", 1).await;
    assert_eq!(timeout(SOON, store.stops(EP, "w", SOON * 10)).await.unwrap().unwrap(), ["a".into()]);
    let ended = view(&*store, "a").await;
    assert_eq!((ended.status, ended.ending.error.as_deref()), (Status::TimedOut, Some("executionTimeout exceeded")));
}

async fn a_job_is_kept_until_its_webhook_is_delivered<E: Engine>() {
    let engine = E::new();
    let limits = Limits { given_up_retention: Duration::from_millis(300), max_given_up: 1, ..Limits::default() };
    let store = engine.open(limits);
    for id in ["delivered", "older", "newer"] {
        let job = job_with(id, |request| {
            request.webhook = Some("https://example.com/hook".into());
            request.retention = Duration::ZERO;
        });
        store.submit(EP, job).await.unwrap();
        take(&*store, "w", 1).await;
        store.finish(EP, "w", id, done("1")).await.unwrap();
    }
    let end_number = async |id| store.webhook(EP, id).await.unwrap().unwrap().end_number;
    store.webhook_ended(EP, "delivered", end_number("delivered").await, WebhookEnd::Delivered).await.unwrap();
    until(&*store, "delivered", |job| job.is_err()).await;
    for id in ["older", "newer"] {
        let end = WebhookEnd::GivenUp("no".into());
        store.webhook_ended(EP, id, end_number(id).await, end).await.unwrap();
    }
    until(&*store, "older", |job| job.is_err()).await;
    until(&*store, "newer", |job| job.is_err()).await;
    assert_eq!(store.given_up(EP, 0, 9).await.unwrap().total, 0);
}
