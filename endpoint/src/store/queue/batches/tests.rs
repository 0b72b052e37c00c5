use std::time::Duration;

use serde_json::value::to_raw_value;

use super::*;
use crate::store::limits::Limits;
use crate::store::payload::Payload;
use crate::store::{Outcome, Policy, Request, TakenJob};

const AT: Timestamp = Duration::from_secs(1);

fn new_job(id: &str, policy: Policy) -> NewJob {
    let input: Payload = to_raw_value("input").unwrap().into();
    NewJob { id: id.into(), request: Request::new(input, policy, Duration::from_secs(300)) }
}

fn jobs(ids: &[&str]) -> Vec<NewJob> {
    ids.iter().map(|id| new_job(id, Policy::default())).collect()
}

fn taken(queue: &mut Queue, at: Timestamp, max: usize) -> Vec<String> {
    let ids = |jobs: Vec<TakenJob>| jobs.iter().map(|job| job.id.to_string()).collect();
    ids(queue.take(at, "w", max))
}

/// A queue with the finalized batch `b`.
fn queue_with(limits: Limits, ids: &[&str]) -> Queue {
    let mut queue = Queue::new(limits);
    queue.create_batch(AT, &"b".into(), jobs(ids)).unwrap();
    queue.finalize_batch(AT, "b").unwrap();
    queue
}

#[test]
fn nothing_of_a_draft_runs() {
    let mut queue: Queue = Queue::new(Limits::default());
    queue.create_batch(AT, &"b".into(), jobs(&["1"])).unwrap();
    queue.add_to_batch(AT, "b", jobs(&["2", "3"])).unwrap();
    assert_eq!(taken(&mut queue, AT, 9), [""; 0]);
    assert_eq!((queue.health(AT).in_queue, queue.has_waiting(), queue.load(AT).waiting), (0, false, 0));
    assert_eq!(queue.remove_from_batch("b", "unknown"), Err(StoreError::JobNotFound));
    assert_eq!(queue.remove_from_batch("b", "2").unwrap().counts.total(), 2);
    queue.finalize_batch(AT, "b").unwrap();
    for refused in
        [queue.add_to_batch(AT, "b", jobs(&["4"])), queue.finalize_batch(AT, "b"), queue.remove_from_batch("b", "1")]
    {
        assert_eq!(refused, Err(StoreError::BatchState(BatchState::Finalized)));
    }
    assert_eq!(taken(&mut queue, AT, 9), ["1", "3"]);
}

#[test]
fn other_jobs_come_first_and_one_worker_is_started_for_a_batch() {
    let mut queue = queue_with(Limits::default(), &["1", "2"]);
    let load = queue.load(AT);
    assert_eq!((load.waiting, load.oldest, load.background), (0, None, true));
    queue.submit(AT, new_job("urgent", Policy::default())).unwrap();
    assert_eq!(taken(&mut queue, AT, 2), ["urgent", "1"]);
}

#[test]
fn the_requests_of_batches_take_turns_once_they_are_finalized() {
    let mut queue: Queue = Queue::new(Limits::default());
    for share in ["a", "b"] {
        let of_share = |number: usize| {
            let mut job = new_job(&format!("{share}{number}"), Policy::default());
            job.request.share = Some(share.into());
            job
        };
        queue.create_batch(AT, &share.into(), (1..=2).map(of_share).collect()).unwrap();
        queue.finalize_batch(AT, share).unwrap();
    }
    assert_eq!(taken(&mut queue, AT, 9), ["a1", "b1", "a2", "b2"]);
}

#[test]
fn a_batch_is_finalized_for_ever_and_is_kept_with_its_results() {
    let mut queue = queue_with(Limits::default(), &["1", "2"]);
    taken(&mut queue, AT, 2);
    let end = AT + Duration::from_secs(60);
    queue.tick(end);
    queue.finish(end, "w", "1", Outcome::completed(None));
    queue.finish(end, "w", "2", Outcome::failed("bad"));
    let view = queue.batch_view("b").unwrap();
    assert_eq!((view.state, view.counts.completed, view.counts.failed), (BatchState::Finalized, 1, 1));
    queue.shorten(end, "1", Duration::ZERO);
    let kept = Limits::default().batch_retention;
    queue.tick(end + kept - Duration::from_secs(1));
    assert_eq!(queue.batch_requests("b", 0, 9).unwrap().entries.len(), 2);
    queue.tick(end + kept);
    assert_eq!(queue.batch_view("b"), Err(StoreError::BatchNotFound));
    assert!(queue.view("1").is_none() && queue.batches.jobs == 0);
}

#[test]
fn the_life_of_a_request_begins_when_a_worker_takes_it() {
    let mut queue = queue_with(Limits::default(), &["1"]);
    let days = Duration::from_secs(3 * 24 * 3600);
    queue.tick(days);
    assert_eq!(taken(&mut queue, days, 1), ["1"], "it has waited for longer than its ttl");
    queue.tick(days + Policy::default().ttl);
    let request = &queue.batch_requests("b", 0, 1).unwrap().entries[0];
    assert!(request.view.status.is_terminal() && request.completed.is_some(), "{request:?}");
    assert_eq!(queue.batch_view("b").unwrap().counts.failed, 1);
}

#[test]
fn a_retried_request_reopens_its_batch() {
    let mut queue = queue_with(Limits::default(), &["1"]);
    taken(&mut queue, AT, 1);
    queue.finish(AT, "w", "1", Outcome::failed("bad"));
    queue.retry(AT, "1").unwrap();
    queue.tick(AT + Limits::default().batch_retention * 2);
    assert_eq!(queue.batch_view("b").unwrap().counts.waiting, 1, "it is not deleted while a request waits");
}

#[test]
fn cancelling_ends_what_waits_and_lets_what_runs_end() {
    let mut queue = queue_with(Limits::default(), &["1", "2", "3"]);
    taken(&mut queue, AT, 2);
    let view = queue.cancel_batch(AT, "b").unwrap();
    assert_eq!((view.state.name(), view.counts.cancelled, view.counts.in_progress), ("FINALIZED", 1, 2));
    assert_eq!(queue.take_stops("w").len(), 0, "what runs gets no stop signal");
    queue.finish(AT, "w", "1", Outcome::completed(None));
    // Handed back, it waits, and so it is cancelled.
    assert_eq!(queue.hand_back(AT, "w", &["2"]), 1);
    let view = queue.batch_view("b").unwrap();
    assert_eq!((view.state.name(), view.counts.cancelled, view.counts.completed), ("CANCELLED", 2, 1));
    assert_eq!(queue.cancel_batch(AT, "b").unwrap().state, BatchState::Cancelled);
    assert_eq!(taken(&mut queue, AT, 9), [""; 0]);
}

#[test]
fn a_batch_that_has_ended_stays_as_it_is() {
    let mut queue = queue_with(Limits::default(), &["1"]);
    taken(&mut queue, AT, 1);
    queue.finish(AT, "w", "1", Outcome::completed(None));
    assert_eq!(queue.cancel_batch(AT, "b"), Err(StoreError::BatchEnded));
    assert_eq!(queue.batch_view("b").unwrap().state, BatchState::Finalized);
}

#[test]
fn nothing_of_a_cancelled_batch_runs_again() {
    let mut queue = queue_with(Limits::default(), &["1", "2", "3"]);
    taken(&mut queue, AT, 2);
    queue.finish(AT, "w", "1", Outcome::failed("bad"));
    queue.cancel_batch(AT, "b").unwrap();
    assert_eq!(queue.retry(AT, "1").err(), Some(StoreError::BatchCancelled), "others of it still run");
    queue.finish(AT, "w", "2", Outcome::failed("bad"));
    assert_eq!(queue.batch_view("b").unwrap().state, BatchState::Cancelled);
    assert_eq!(queue.retry(AT, "2").err(), Some(StoreError::BatchCancelled));
    queue.submit(AT, new_job("other", Policy::default())).unwrap();
    taken(&mut queue, AT, 1);
    queue.finish(AT, "w", "other", Outcome::failed("bad"));
    let (outcome, rest) = queue.retry_failed(AT, 0..=u64::MAX, 10);
    assert_eq!((outcome.retried, outcome.left, outcome.refusal, rest), (1, 2, Some(StoreError::BatchCancelled), None));
    // The first worker has failed too often.
    let again = queue.take(AT, "another", 9);
    assert_eq!(again.iter().map(|job| &*job.id).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn a_cancelled_draft_is_cancelled_at_once() {
    let mut queue: Queue = Queue::new(Limits::default());
    queue.create_batch(AT, &"b".into(), jobs(&["1"])).unwrap();
    assert_eq!(queue.cancel_batch(AT, "b").unwrap().state, BatchState::Cancelled);
    queue.create_batch(AT, &"empty".into(), Vec::new()).unwrap();
    assert_eq!(queue.finalize_batch(AT, "empty"), Err(StoreError::EmptyBatch));
    assert_eq!(queue.cancel_batch(AT, "empty").unwrap().state, BatchState::Cancelled);
    queue.tick(AT + Limits::default().batch_retention);
    assert!(queue.batches.is_empty());
}

#[test]
fn batches_have_bounds_and_leave_room_for_other_jobs() {
    let limits = Limits { max_batches: 1, max_batch_requests: 3, max_jobs: 4, ..Limits::default() };
    let mut queue: Queue = Queue::new(limits);
    queue.create_batch(AT, &"b".into(), Vec::new()).unwrap();
    assert_eq!(queue.create_batch(AT, &"c".into(), Vec::new()), Err(StoreError::TooManyBatches(1)));
    assert_eq!(queue.add_to_batch(AT, "b", jobs(&["1", "2", "3", "4"])), Err(StoreError::BatchTooLarge(3)));
    assert_eq!(queue.add_to_batch(AT, "b", jobs(&["1", "2", "3"])), Err(StoreError::QueueFull));
    assert_eq!(queue.batch_view("b").unwrap().counts.total(), 0, "all or none");
    queue.add_to_batch(AT, "b", jobs(&["1", "2"])).unwrap();
    queue.submit(AT, new_job("other", Policy::default())).unwrap();
    queue.cancel_batch(AT, "b").unwrap();
    queue.create_batch(AT, &"c".into(), Vec::new()).unwrap();
}

#[test]
fn more_requests_than_one_tick_deletes_are_deleted_with_their_batch() {
    let limits = Limits::default();
    let ids: Vec<_> = (0..=2 * MAX_DUE).map(|number| number.to_string()).collect();
    let mut queue: Queue = Queue::new(limits);
    queue.create_batch(AT, &"b".into(), jobs(&ids.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    queue.cancel_batch(AT, "b").unwrap();
    let end = AT + limits.batch_retention;
    while queue.next_deadline().is_some_and(|at| at <= end) {
        queue.tick(end);
    }
    assert!(queue.jobs.is_empty() && queue.batches.is_empty());
}
