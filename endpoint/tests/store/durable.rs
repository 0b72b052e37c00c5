//! What a store in a file must bring back when it is opened again.

use std::time::Duration;

use end_to_end_tests::eventually;
use runpod_endpoint::store::{
    BatchState, Heartbeat, JobDetails, JobFilter, Limits, OVERFLOW, Overdue, Seen, Setup, Status, StoreError,
    WebhookEnd, WebhookQueue,
};
use rusqlite::Connection;
use tokio::time::timeout;

use crate::support::{
    EP, Engine, SOON, Sqlite, done, failed, job_with, new_job, output_of, payload, status, submit, take, take_ids,
    text, until, view,
};

#[tokio::test]
async fn the_queue_keeps_its_order() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    let low = job_with("low", |request| request.policy.low_priority = true);
    store.submit(EP, low).await.unwrap();
    for id in ["retried", "given-back", "a", "b"] {
        submit(&*store, id).await;
    }
    let taken = take(&*store, "w", 2).await;
    store.finish(EP, "w", "retried", failed("bad")).await.unwrap();
    store.return_unsent(EP, "w", "given-back", taken[1].attempt).await.unwrap();
    store.retry(EP, "retried").await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    submit(&*store, "later").await;
    assert_eq!(take_ids(&*store, "w", 9).await, ["given-back", "a", "b", "retried", "later", "low"]);
    let inputs: Vec<_> = store.pending(EP, 9).await.unwrap();
    assert_eq!(inputs.len(), 6);
}

#[tokio::test]
async fn a_running_job_stays_with_its_worker() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    for id in ["a", "b"] {
        submit(&*store, id).await;
    }
    take(&*store, "w", 1).await;
    store.progress(EP, "w", "a", Some(payload("{\"step\": 1}"))).await.unwrap();
    let before = view(&*store, "a").await;
    drop(store);

    let store = engine.open(Limits::default());
    let after = view(&*store, "a").await;
    assert_eq!(
        (after.status, after.attempt.worker.as_deref(), after.attempt.retries),
        (Status::InProgress, Some("w"), 0)
    );
    assert_eq!(after.attempt.delay.map(|delay| delay.as_millis()), before.attempt.delay.map(|delay| delay.as_millis()));
    assert_eq!(output_of(&after), Some("{\"step\": 1}"));
    assert_eq!(store.health(EP).await.unwrap().workers.running, 1);
    assert_eq!(take_ids(&*store, "other", 9).await, ["b"]);
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    assert_eq!(status(&*store, "a").await, Status::Completed);
}

#[tokio::test]
async fn observers_and_webhooks_find_a_finished_job() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    let webhook = Some("https://example.com/hook".into());
    let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let job = job_with("a", |request| (request.webhook, request.traceparent) = (webhook, traceparent));
    store.submit(EP, job).await.unwrap();
    submit(&*store, "b").await;
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    let before = store.inspect(EP, "a", Seen::default(), Duration::ZERO).await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    let after = store.inspect(EP, "a", Seen::default(), Duration::ZERO).await.unwrap();
    let states = |record: &JobDetails| -> Vec<_> {
        record.history.iter().map(|entry| (entry.status, entry.worker.clone())).collect()
    };
    assert_eq!(states(&after), states(&before));
    assert!(after.history.is_sorted_by_key(|entry| entry.at));
    assert_eq!((after.input.get(), output_of(&after.view)), ("\"input of a\"", Some("1")));
    let rows = store.list(EP, &JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap();
    assert_eq!(rows.iter().map(|row| &*row.view.id).collect::<Vec<_>>(), ["b", "a"]);
    let webhook = store.webhook(EP, "a").await.unwrap().unwrap();
    assert_eq!((&*webhook.url, webhook.request.input.get()), ("https://example.com/hook", "\"input of a\""));
    assert_eq!(output_of(&webhook.job), Some("1"));
    assert_eq!(webhook.request.traceparent.as_deref(), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
}

#[tokio::test]
async fn a_webhook_is_due_again_until_its_delivery_has_ended() {
    let engine = Sqlite::new();
    let due_at_start = async |engine: &Sqlite| {
        let (webhooks, mut due) = WebhookQueue::channel();
        let store = engine.open_with(&Setup { webhooks, ..Setup::default() });
        // Any look at the queue lets out what the start has found.
        store.health(EP).await.unwrap();
        let ids: Vec<_> = std::iter::from_fn(|| due.try_recv().ok()).map(|due| due.job.to_string()).collect();
        (store, ids)
    };
    let (store, _) = due_at_start(&engine).await;
    for id in ["waits", "told", "cancelled", "retried", "untold"] {
        let webhook = Some("https://example.com/hook".into());
        store.submit(EP, job_with(id, |request| request.webhook = webhook)).await.unwrap();
    }
    store.cancel(EP, "cancelled").await.unwrap();
    take(&*store, "w", 4).await;
    for id in ["told", "untold"] {
        store.finish(EP, "w", id, done("1")).await.unwrap();
    }
    store.finish(EP, "w", "retried", failed("bad")).await.unwrap();
    store.retry(EP, "retried").await.unwrap();
    let end = |id| store.webhook(EP, id);
    let number = end("told").await.unwrap().unwrap().end_number;
    store.webhook_ended(EP, "told", number + 1, WebhookEnd::Delivered).await.unwrap();
    assert!(end("told").await.unwrap().is_some(), "another end of the job was reported");
    store.webhook_ended(EP, "told", number, WebhookEnd::Delivered).await.unwrap();
    drop(store);

    let (store, due) = due_at_start(&engine).await;
    assert_eq!(due, ["untold"]);
    let number = store.webhook(EP, "untold").await.unwrap().unwrap().end_number;
    store.webhook_ended(EP, "untold", number, WebhookEnd::GivenUp("no answer".into())).await.unwrap();
    drop(store);
    let (store, due) = due_at_start(&engine).await;
    assert_eq!(due, [""; 0]);
    let given_up = store.given_up(EP, 0, 9).await.unwrap();
    assert_eq!((&*given_up.entries[0].job, &*given_up.entries[0].reason), ("untold", "no answer"));
    store.resend_webhook(EP, "untold").await.unwrap();
    drop(store);
    assert_eq!(due_at_start(&engine).await.1, ["untold"]);
}

#[tokio::test]
async fn an_endpoint_stays_paused() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    store.set_paused(EP, true).await.unwrap();
    submit(&*store, "a").await;
    drop(store);
    let store = engine.open(Limits::default());
    assert!(store.health(EP).await.unwrap().paused);
    assert_eq!(take(&*store, "w", 1).await.len(), 0);
    store.set_paused(EP, false).await.unwrap();
    drop(store);
    assert_eq!(take(&*engine.open(Limits::default()), "w", 1).await.len(), 1);
}

#[tokio::test]
async fn batches_are_kept_with_their_states_and_results() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    for id in ["draft", "runs"] {
        let jobs = Vec::from(["1", "2"].map(|number| new_job(&format!("{id}-{number}"))));
        store.create_batch(EP, id.into(), jobs).await.unwrap();
    }
    store.rename_batch(EP, "runs", Some("nightly".into())).await.unwrap();
    store.finalize_batch(EP, "runs").await.unwrap();
    take(&*store, "w", 1).await;
    store.finish(EP, "w", "runs-1", done("1.50")).await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    let runs = store.batch(EP, "runs").await.unwrap();
    assert_eq!((runs.state, runs.name.as_deref()), (BatchState::Finalized, Some("nightly")));
    assert_eq!((runs.counts.completed, runs.counts.waiting, runs.counts.total()), (1, 1, 2));
    let taken = take(&*store, "w", 9).await;
    assert_eq!(taken.iter().map(|job| &*job.id).collect::<Vec<_>>(), ["runs-2"], "nothing of a draft");
    assert_eq!(taken[0].request.batch.as_deref(), Some("runs"));
    store.finish(EP, "w", "runs-2", failed("bad")).await.unwrap();
    store.finalize_batch(EP, "draft").await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    let requests = store.batch_requests(EP, "runs", 0, 9).await.unwrap().entries;
    assert_eq!(requests.iter().map(|request| output_of(&request.view)).collect::<Vec<_>>(), [Some("1.50"), None]);
    assert!(requests.iter().all(|request| request.started <= request.completed && request.started.is_some()));
    assert_eq!(take(&*store, "w", 9).await.len(), 2, "the draft was finalized");
}

#[tokio::test]
async fn a_batch_leaves_the_file_with_its_requests() {
    let engine = Sqlite::new();
    let store = engine.open(Limits { batch_retention: Duration::from_millis(200), ..Limits::default() });
    store.create_batch(EP, "b".into(), vec![new_job("1"), new_job("2")]).await.unwrap();
    store.cancel_batch(EP, "b").await.unwrap();
    eventually("the batch to expire", || async { store.batch(EP, "b").await.is_err().then_some(()) }).await;
    drop(store);
    drop(engine.open(Limits::default()));
    let file = Connection::open(engine.path()).unwrap();
    for table in ["batches", "jobs", "inputs"] {
        let left: i64 = file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[tokio::test]
async fn the_lease_of_a_running_job_starts_afresh() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    store.heartbeat(EP, "w", Heartbeat::default()).await.unwrap();
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    drop(store);

    let lease = Duration::from_millis(50);
    let store = engine.open(Limits { lease, ..Limits::default() });
    let again = timeout(SOON, store.take(EP, "other", 1, SOON)).await.unwrap().unwrap();
    assert_eq!((&*again[0].id, again[0].attempt), ("a", 2));
    assert_eq!(view(&*store, "a").await.attempt.retries, 1);
}

#[tokio::test]
async fn a_job_that_runs_elsewhere_is_known_by_its_id_there() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    for id in ["begun", "accepted", "sent"] {
        submit(&*store, id).await;
    }
    let overdue = Overdue { max: 3, ..Overdue::default() };
    assert_eq!(store.take_overdue(EP, &overdue).await.unwrap().len(), 3);
    store.accepted_elsewhere(EP, "begun", "far-1").await.unwrap();
    store.begun_elsewhere(EP, "begun", Duration::ZERO).await.unwrap();
    store.accepted_elsewhere(EP, "accepted", "far-2").await.unwrap();
    let before = store.elsewhere(EP).await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    assert_eq!(store.elsewhere(EP).await.unwrap(), before);
    let known: Vec<_> = before.iter().map(|job| (&*job.id, job.far_id.as_deref(), job.has_begun)).collect();
    assert_eq!(known, [("accepted", Some("far-2"), false), ("begun", Some("far-1"), true), ("sent", None, false)]);
    assert_eq!(
        (status(&*store, "accepted").await, status(&*store, "begun").await),
        (Status::InQueue, Status::InProgress)
    );
    store.finish(EP, OVERFLOW, "accepted", done("1")).await.unwrap();
    assert_eq!(status(&*store, "accepted").await, Status::Completed);
    assert_eq!(store.hand_back(EP, OVERFLOW, &["sent".into()]).await, Ok(1));
}

#[tokio::test]
async fn a_run_time_that_ended_meanwhile_leaves_time_for_the_result() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    drop(store);
    let long_ago = "UPDATE jobs SET since = 1, execution_deadline = 2";
    assert_eq!(Connection::open(engine.path()).unwrap().execute(long_ago, []), Ok(1));

    let store = engine.open(Limits::default());
    assert_eq!(status(&*store, "a").await, Status::InProgress);
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    assert_eq!(status(&*store, "a").await, Status::Completed);
}

#[tokio::test]
async fn results_errors_and_counters_are_kept() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    for id in ["done", "failed", "cancelled"] {
        submit(&*store, id).await;
    }
    take(&*store, "w", 2).await;
    store.finish(EP, "w", "done", done("{\"a\":  1.50}")).await.unwrap();
    let cost = Some(payload("{\"gpuSeconds\": 1.50}"));
    let mut outcome = failed("bad input");
    (outcome.ending.output, outcome.ending.cost) = (Some(payload("[1]")), cost);
    store.finish(EP, "w", "failed", outcome).await.unwrap();
    store.cancel(EP, "cancelled").await.unwrap();
    let before = store.health(EP).await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    let job = view(&*store, "done").await;
    assert_eq!((job.status, output_of(&job)), (Status::Completed, Some("{\"a\":  1.50}")));
    assert!(job.attempt.execution.is_some());
    let job = view(&*store, "failed").await;
    assert_eq!((job.ending.error.as_deref(), output_of(&job)), (Some("bad input"), Some("[1]")));
    assert_eq!(text(job.ending.cost.as_ref()), Some("{\"gpuSeconds\": 1.50}"));
    assert_eq!(status(&*store, "cancelled").await, Status::Cancelled);
    let after = store.health(EP).await.unwrap();
    assert_eq!((after.completed, after.failed), (1, 1));
    assert_eq!((after.completed, after.failed, after.retried), (before.completed, before.failed, before.retried));
}

#[tokio::test]
async fn unread_stream_items_are_kept_and_read_ones_are_not() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, "w", 1).await;
    store.stream_item(EP, "w", "a", payload("1")).await.unwrap();
    store.drain(EP, "a", Duration::ZERO).await.unwrap();
    for item in ["2", "3"] {
        store.stream_item(EP, "w", "a", payload(item)).await.unwrap();
    }
    drop(store);

    let store = engine.open(Limits::default());
    store.stream_item(EP, "w", "a", payload("4")).await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    let (_, items) = store.drain(EP, "a", Duration::ZERO).await.unwrap();
    assert_eq!(items.iter().map(|item| item.get()).collect::<Vec<_>>(), ["2", "3", "4"]);
}

#[tokio::test]
async fn what_has_expired_leaves_the_file() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    let retention = Duration::from_millis(200);
    let s3_config = Some(payload("{}"));
    let job = job_with("a", |request| (request.retention, request.s3_config) = (retention, s3_config));
    store.submit(EP, job).await.unwrap();
    take(&*store, "w", 1).await;
    store.stream_item(EP, "w", "a", payload("1")).await.unwrap();
    store.finish(EP, "w", "a", done("1")).await.unwrap();
    drop(store);

    // Its time goes on while nobody has the file open.
    let store = engine.open(Limits::default());
    until(&*store, "a", |job| job.err() == Some(&StoreError::JobNotFound)).await;
    drop(store);
    let file = Connection::open(engine.path()).unwrap();
    for table in ["jobs", "inputs", "s3_configs", "outputs", "chunks"] {
        let rows: i64 = file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table} has rows left");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_refuses_jobs_until_it_can() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    submit(&*store, "before").await;
    let other = Connection::open(engine.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = timeout(SOON, store.submit(EP, new_job("meanwhile"))).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("database is locked"), "{refused}");
    let refused = timeout(SOON, store.take(EP, "w", 1, SOON * 10)).await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    other.execute_batch("ROLLBACK").unwrap();
    let accepted = async { while store.submit(EP, new_job("after")).await.is_err() {} };
    timeout(SOON, accepted).await.unwrap();
    drop(store);

    let store = engine.open(Limits::default());
    let ids = take_ids(&*store, "w", 9).await;
    assert_eq!((ids.first().map(|id| &**id), ids.last().map(|id| &**id)), (Some("before"), Some("after")));
}

#[tokio::test]
async fn what_was_acknowledged_stays_readable_while_the_file_cannot_be_written() {
    let engine = Sqlite::new();
    let store = engine.open(Limits::default());
    for id in ["done", "running", "waiting"] {
        submit(&*store, id).await;
    }
    take(&*store, "w", 2).await;
    store.finish(EP, "w", "done", done("1")).await.unwrap();
    store.progress(EP, "w", "running", Some(payload("\"half\""))).await.unwrap();
    let other = Connection::open(engine.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // In flight when the disk fails: changed in memory, and not in the file.
    let refused = timeout(SOON, store.finish(EP, "w", "running", done("2"))).await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    let refused = timeout(SOON, store.submit(EP, new_job("new"))).await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");

    for (id, status, output) in [
        ("done", Status::Completed, Some("1")),
        ("running", Status::InProgress, Some("\"half\"")),
        ("waiting", Status::InQueue, None),
    ] {
        let seen = timeout(SOON, store.view(EP, id, None)).await.unwrap().unwrap();
        assert_eq!((seen.status, output_of(&seen)), (status, output), "{id}");
        let seen = timeout(SOON, store.wait_finished(EP, id, Duration::ZERO)).await.unwrap().unwrap();
        assert_eq!(seen.status, status, "{id}");
    }
    let listed = store.list(EP, &JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap();
    assert_eq!(listed.iter().map(|row| &*row.view.id).collect::<Vec<_>>(), ["waiting", "running", "done"]);
    let details = store.inspect(EP, "done", Seen::default(), Duration::ZERO).await.unwrap();
    assert_eq!(output_of(&details.view), Some("1"));
    assert_eq!(store.health(EP).await.unwrap().in_queue, 1, "the refused job was not queued");

    other.execute_batch("ROLLBACK").unwrap();
    let written = async { while status(&*store, "running").await != Status::Completed {} };
    timeout(SOON, written).await.unwrap();
    store.submit(EP, new_job("after")).await.unwrap();
}
