//! Which worker gets a job, and what happens when it does not end it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use runpod_endpoint::store::{ANONYMOUS, Heartbeat, Limits, Status, WorkerEvent};
use tokio::time::timeout;

use crate::support::{
    EP, Engine, SOON, done, every_store, job_with, output_of, payload, submit, take, take_ids, text, until, view,
};

every_store!(
    jobs_leave_in_order_of_submission_and_low_priority_last,
    payloads_come_out_byte_for_byte,
    a_waiting_take_is_woken_by_a_submission,
    a_take_that_nobody_waits_for_takes_nothing,
    a_job_that_was_not_delivered_is_the_next_one,
    a_lost_job_runs_once_more_and_then_fails,
    a_job_taken_anonymously_belongs_to_whoever_reports_it,
    many_clients_and_workers_lose_nothing,
    the_worker_of_a_process_that_ended_loses_its_jobs,
    a_job_that_is_handed_back_is_the_next_one_and_costs_no_retry,
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

async fn a_job_taken_anonymously_belongs_to_whoever_reports_it<E: Engine>() {
    let engine = E::new();
    let store = engine.open(Limits::default());
    submit(&*store, "a").await;
    take(&*store, ANONYMOUS, 1).await;
    store.stream_item(EP, "w", "a", payload("1")).await.unwrap();
    assert_eq!(view(&*store, "a").await.attempt.worker.as_deref(), Some("w"));
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
