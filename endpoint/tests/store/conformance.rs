//! What every store must do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use runpod_endpoint::store::{
    ANONYMOUS, Heartbeat, Limits, Outcome, Overrides, Setup, Status, StoreError, WebhookEnd, WorkerEvent,
};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, Memory, Postgres, SOON, Sqlite, done, every_store, failed, has_postgres, job_with, new_job, output_of,
    payload, status, submit, take, take_ids, text, until, view,
};

every_store!(
    jobs_leave_in_order_of_submission_and_low_priority_last,
    payloads_come_out_byte_for_byte,
    a_waiting_take_is_woken_by_a_submission,
    a_take_that_nobody_waits_for_takes_nothing,
    the_first_result_wins,
    progress_shows_until_the_result_replaces_it,
    stream_items_are_read_once_and_in_order,
    a_stream_reader_is_woken,
    a_waiting_reader_is_woken_by_the_end,
    a_cancelled_job_is_never_delivered,
    a_failed_job_runs_again_when_retried,
    purge_cancels_what_no_worker_has_taken,
    a_job_that_was_not_delivered_is_the_next_one,
    a_record_ends_with_its_ttl,
    a_result_ends_with_its_retention,
    a_lost_job_runs_once_more_and_then_fails,
    a_job_over_its_run_time_fails_and_its_worker_gets_a_stop_signal,
    a_job_taken_anonymously_belongs_to_whoever_reports_it,
    endpoints_know_nothing_of_each_other,
    endpoints_that_are_not_used_make_room,
    bounds_are_kept,
    many_clients_and_workers_lose_nothing,
    the_worker_of_a_process_that_ended_loses_its_jobs,
    a_job_that_is_handed_back_is_the_next_one_and_costs_no_retry,
    endpoints_have_their_own_number_of_retries,
    a_paused_endpoint_gives_out_no_jobs_until_it_is_resumed,
    all_failed_jobs_run_again_at_once,
    a_job_is_kept_until_its_webhook_is_delivered,
);

async fn jobs_leave_in_order_of_submission_and_low_priority_last<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let low = job_with("low", |request| request.policy.low_priority = true);
    store.submit(EP, low).await.unwrap();
    for id in ["a", "b", "c"] {
        submit(&*store, id).await;
    }
    assert_eq!(take_ids(&*store, "w", 2).await, ["a", "b"]);
    assert_eq!(take_ids(&*store, "w", 9).await, ["c", "low"]);
    assert_eq!(take_ids(&*store, "w", 9).await, Vec::<String>::new());
}

async fn payloads_come_out_byte_for_byte<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let odd = "{ \"b\":1.50,\n \"a\" :\"\\u00e9é\\u0000\", \"b\": 1e400 }";
    let large = format!("\"{}\"", "x".repeat(3 << 20));
    let first = job_with("odd", |request| {
        request.input = payload(odd);
        request.s3_config = Some(payload("{\"bucketName\":  \"b\"}"));
    });
    store.submit(EP, first).await.unwrap();
    store.submit(EP, job_with("large", |request| request.input = payload(&large))).await.unwrap();
    let jobs = take(&*store, "w", 2).await;
    let [first, second] = [&jobs[0].request, &jobs[1].request];
    assert_eq!((first.input.get(), text(first.s3_config.as_ref())), (odd, Some("{\"bucketName\":  \"b\"}")));
    assert!(second.input.get() == large && second.s3_config.is_none());
    for (id, output) in [("odd", odd), ("large", &large)] {
        store.finish(EP, "w", id, done(output)).await.unwrap();
        assert!(text(view(&*store, id).await.ending.output.as_ref()) == Some(output), "{id} has changed");
    }
}

async fn a_waiting_take_is_woken_by_a_submission<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    let waiting = store.take(EP, "w", 1, SOON * 10);
    let submitting = async {
        // The poll is open once the worker counts as idle.
        while store.health(EP).await.unwrap().workers.idle == 0 {
            tokio::task::yield_now().await;
        }
        submit(&*store, "a").await;
    };
    let (taken, ()) = timeout(SOON, async { tokio::join!(waiting, submitting) }).await.unwrap();
    assert_eq!(&*taken.unwrap()[0].id, "a");
}

async fn a_take_that_nobody_waits_for_takes_nothing<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for round in 0..20 {
        let id = format!("job-{round}");
        let gone = Arc::clone(&store);
        let poll = tokio::spawn(async move { gone.take(EP, "gone", 1, SOON * 10).await });
        // Ends the poll before, while or after the job reaches it.
        let submitting = submit(&*store, &id);
        let ending = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            poll.abort();
            poll.await.is_ok()
        };
        let ((), delivered) = tokio::join!(submitting, ending);
        if !delivered {
            let next = store.take(EP, "next", 1, SOON).await.unwrap();
            assert_eq!(next.iter().map(|job| &*job.id).collect::<Vec<_>>(), [id]);
        }
    }
}

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

async fn a_job_that_was_not_delivered_is_the_next_one<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["a", "b"] {
        submit(&*store, id).await;
    }
    let taken = take(&*store, "w", 1).await;
    store.return_unsent(EP, "w", "a", taken[0].attempt).await.unwrap();
    assert_eq!(view(&*store, "a").await.attempt.retries, 0);
    assert_eq!(take_ids(&*store, "w", 9).await, ["a", "b"]);
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

async fn a_lost_job_runs_once_more_and_then_fails<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits { lease: Duration::from_millis(50), ..Limits::default() });
    store.heartbeat(EP, "w", Heartbeat::default()).await.unwrap();
    submit(&*store, "a").await;
    for retries in [1, 2] {
        let taken = timeout(SOON, store.take(EP, "w", 1, SOON)).await.unwrap().unwrap();
        assert_eq!((&*taken[0].id, taken[0].attempt), ("a", retries));
    }
    until(&*store, "a", |job| job.is_ok_and(|job| job.status == Status::Failed)).await;
    let ended = view(&*store, "a").await;
    assert_eq!((ended.ending.error.as_deref(), ended.attempt.retries), (Some("job timed out after 1 retries"), 1));
    let health = store.health(EP).await.unwrap();
    assert_eq!((health.retried, health.failed), (1, 1));
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

async fn a_job_taken_anonymously_belongs_to_whoever_reports_it<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, ANONYMOUS, 1).await;
    store.stream_item(EP, "w", "a", payload("1")).await.unwrap();
    assert_eq!(view(&*store, "a").await.attempt.worker.as_deref(), Some("w"));
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

async fn many_clients_and_workers_lose_nothing<E: Engine>() {
    const CLIENTS: usize = 8;
    const JOBS: usize = 25;
    let engine = E::new();
    let store = engine.open(Limits::default());
    let mut clients = tokio::task::JoinSet::new();
    let mut workers = tokio::task::JoinSet::new();
    for task in 0..CLIENTS {
        let client = Arc::clone(&store);
        clients.spawn(async move {
            for number in 0..JOBS {
                submit(&*client, &format!("{task}-{number}")).await;
            }
        });
        let worker = Arc::clone(&store);
        workers.spawn(async move {
            let name = format!("w{task}");
            let mut ids = Vec::new();
            while worker.health(EP).await.unwrap().completed < (CLIENTS * JOBS) as u64 {
                for job in worker.take(EP, &name, 3, Duration::from_millis(20)).await.unwrap() {
                    worker.finish(EP, &name, &job.id, done(job.request.input.get())).await.unwrap();
                    ids.push(job.id);
                }
            }
            ids
        });
    }
    let (_, ids) =
        timeout(SOON, async { (clients.join_all().await, workers.join_all().await.concat()) }).await.unwrap();
    assert_eq!(ids.len(), CLIENTS * JOBS, "a job was done twice");
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), CLIENTS * JOBS);
    for id in &ids {
        let ended = view(&*store, id).await;
        assert_eq!(output_of(&ended), Some(&*format!("\"input of {id}\"")));
    }
}

async fn the_worker_of_a_process_that_ended_loses_its_jobs<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    // That the next process of the same name starts says as much as the end of the one before.
    for (id, event) in [("a", WorkerEvent::Gone), ("b", WorkerEvent::Starting)] {
        store.worker_event(EP, "w", WorkerEvent::Starting).await.unwrap();
        submit(&*store, id).await;
        take(&*store, "w", 1).await;
        store.worker_event(EP, "w", event).await.unwrap();
        let lost = view(&*store, id).await;
        assert_eq!((lost.status, lost.attempt.retries), (Status::InProgress, 1));
        assert_eq!(take_ids(&*store, "next", 1).await, [id]);
    }
}

async fn a_job_that_is_handed_back_is_the_next_one_and_costs_no_retry<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    for id in ["a", "b", "c"] {
        submit(&*store, id).await;
    }
    let taken: Vec<_> = take(&*store, "w", 2).await.iter().map(|job| Arc::clone(&job.id)).collect();
    let waiting = store.take(EP, "next", 9, SOON * 10);
    let handing_back = async {
        assert_eq!(store.hand_back(EP, "w", &taken).await, Ok(2));
        assert_eq!(store.hand_back(EP, "w", &taken).await, Ok(0), "a repetition is a no-op");
        store.goodbye(EP, "w").await.unwrap();
    };
    assert_eq!(take_ids(&*store, "other", 1).await, ["c"]);
    let (again, ()) = timeout(SOON, async { tokio::join!(waiting, handing_back) }).await.unwrap();
    let again = again.unwrap();
    assert_eq!((&*again[0].id, again[0].attempt), ("a", 2));
    let job = view(&*store, "a").await;
    assert_eq!((job.status, job.attempt.retries), (Status::InProgress, 0));
    let workers = store.health(EP).await.unwrap().workers;
    assert_eq!((workers.running, workers.lost + workers.unhealthy + workers.idle), (2, 0));
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
    assert_eq!(store.retry_failed(EP).await.unwrap(), 2250);
    assert_eq!(store.failed(EP, 0, 9).await.unwrap().total, 0);
    assert_eq!(store.retry_failed(EP).await.unwrap(), 0);
    let again = take_ids(&*store, "another", usize::MAX).await;
    let bad: Vec<_> = ids.iter().filter(|id| !id.ends_with('7')).cloned().collect();
    assert_eq!(again, bad, "in their old order");
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
