//! Single situations of the queue; `any_order` has random sequences of them.

mod any_order;
mod elsewhere;

use std::time::Duration;

use serde_json::value::to_raw_value;

use super::*;
use crate::store::error::StoreError;
use crate::store::payload::Filed;
use crate::store::{Heartbeat, HistoryQuery, MAX_SEARCHED, NewJob, Outcome, Policy, Request, TakenJob};

fn payload(value: &(impl serde::Serialize + ?Sized)) -> Payload {
    to_raw_value(value).unwrap().into()
}

fn new_job(id: &str, policy: Policy) -> NewJob {
    NewJob { id: id.into(), request: Request::new(payload("input"), policy, Duration::from_secs(300)) }
}

const AT: Timestamp = Duration::from_secs(1);

fn queue_with(jobs: &[&str]) -> Queue {
    let mut queue = Queue::new(Limits::default());
    for id in jobs {
        queue.submit(AT, new_job(id, Policy::default())).unwrap();
    }
    queue
}

fn ids(jobs: &[TakenJob]) -> Vec<&str> {
    jobs.iter().map(|job| &*job.id).collect()
}

#[test]
fn a_job_that_was_not_delivered_goes_back_to_the_head() {
    let mut queue = queue_with(&["a", "b"]);
    let taken = queue.take(AT, "w0", 1);
    queue.return_unsent("w0", "a", taken[0].attempt);
    let view = queue.view("a").unwrap();
    assert_eq!((view.status, view.attempt.retries, view.attempt.worker), (Status::InQueue, 0, None));
    assert_eq!(ids(&queue.take(AT, "w1", 2)), ["a", "b"]);
}

#[test]
fn a_deadline_without_a_job_does_not_hold_up_the_later_ones() {
    let mut queue = queue_with(&["a"]);
    queue.deadlines.insert((Timestamp::ZERO, JobId::from("unknown")));
    queue.tick(AT + Duration::from_secs(30 * 24 * 3600));
    assert!(queue.view("a").is_none(), "the job has not expired");
    assert_eq!(queue.next_deadline(), None);
}

#[test]
fn a_stale_return_changes_nothing() {
    let mut queue = queue_with(&["a"]);
    let first = queue.take(AT, "w0", 1);
    queue.return_unsent("w0", "a", first[0].attempt);
    queue.take(AT, "w0", 1);
    queue.return_unsent("w0", "a", first[0].attempt);
    assert_eq!(queue.view("a").unwrap().status, Status::InProgress);
}

#[test]
fn the_worker_that_was_thought_lost_may_still_win() {
    let mut queue = queue_with(&["a"]);
    queue.heartbeat(AT, "w0", &Heartbeat::default());
    queue.take(AT, "w0", 1);
    let later = AT + Limits::default().lease;
    queue.tick(later);
    queue.take(later, "w1", 1);
    queue.finish(later, "w0", "a", Outcome::completed(Some(payload("first"))));
    queue.finish(later, "w1", "a", Outcome::failed("second"));
    let view = queue.view("a").unwrap();
    assert_eq!((view.status, view.attempt.retries), (Status::Completed, 1));
    assert_eq!(view.ending.output.unwrap().get(), "\"first\"");
    assert_eq!(queue.health(later).completed, 1);
}

#[test]
fn the_worker_whose_retry_came_too_late_gets_a_stop_signal() {
    let mut queue = queue_with(&["a"]);
    queue.heartbeat(AT, "w0", &Heartbeat::default());
    queue.take(AT, "w0", 1);
    let later = AT + Limits::default().lease;
    queue.tick(later);
    queue.take(later, "w1", 1);
    queue.finish(later, "w0", "a", Outcome::default());
    assert_eq!(queue.take_stops("w1"), ["a".into()]);
    assert_eq!(queue.take_stops("w0"), Vec::<JobId>::new());
}

#[test]
fn a_stop_signal_does_not_hit_the_next_attempt() {
    let mut queue = queue_with(&["a"]);
    queue.take(AT, "w0", 1);
    let later = AT + Policy::EXECUTION_TIMEOUT + Limits::default().timeout_grace;
    queue.tick(later);
    assert_eq!(queue.view("a").unwrap().ending.error.as_deref(), Some("executionTimeout exceeded"));
    queue.retry(later, "a").unwrap();
    assert_eq!(ids(&queue.take(later, "w0", 1)), ["a"]);
    assert_eq!(queue.take_stops("w0"), Vec::<JobId>::new());
}

#[test]
fn a_refreshing_worker_gets_jobs_again_once_it_was_away() {
    let mut queue = queue_with(&["a", "b"]);
    queue.poll_started(AT, "w0");
    queue.take(AT, "w0", 1);
    queue.poll_ended(AT, "w0", true);
    queue.finish(AT, "w0", "a", Outcome { refresh: true, ..Outcome::default() });
    queue.poll_started(AT, "w0");
    assert_eq!(ids(&queue.take(AT, "w0", 1)), Vec::<&str>::new());
    queue.poll_ended(AT, "w0", true);
    let later = AT + Limits::default().refresh_gap;
    queue.poll_started(later, "w0");
    assert_eq!(ids(&queue.take(later, "w0", 1)), ["b"]);
}

#[test]
fn a_refreshing_worker_that_asks_on_gets_jobs_after_a_while() {
    let mut queue = queue_with(&["a", "b"]);
    queue.poll_started(AT, "w0");
    queue.take(AT, "w0", 1);
    queue.poll_ended(AT, "w0", true);
    queue.finish(AT, "w0", "a", Outcome { refresh: true, ..Outcome::default() });
    let served = (1..60).map(|second| AT + Duration::from_secs(second)).find(|now| {
        queue.poll_started(*now, "w0");
        let taken = queue.take(*now, "w0", 1);
        queue.poll_ended(*now, "w0", true);
        !taken.is_empty()
    });
    assert_eq!(served, Some(AT + Duration::from_secs(1) + Limits::default().refresh_patience));
}

#[test]
fn a_worker_is_replaced_when_the_jobs_beside_the_one_that_asks_for_it_are_over() {
    let mut queue = queue_with(&["a", "b"]);
    queue.poll_started(AT, "w0");
    queue.take(AT, "w0", 2);
    queue.poll_ended(AT, "w0", true);
    queue.finish(AT, "w0", "a", Outcome { refresh: true, ..Outcome::default() });
    assert!(!queue.is_refreshing("w0"), "b runs");
    queue.finish(AT, "w0", "b", Outcome::default());
    assert!(queue.is_refreshing("w0"));
}

#[test]
fn the_queue_has_a_bound() {
    let mut queue = Queue::new(Limits { max_jobs: 1, ..Limits::default() });
    queue.submit(AT, new_job("a", Policy::default())).unwrap();
    assert_eq!(queue.submit(AT, new_job("b", Policy::default())).unwrap_err(), StoreError::QueueFull);
}

#[test]
fn what_stays_in_memory_has_a_bound_of_its_own() {
    let mut queue: Queue<Filed> = Queue::new(Limits { max_memory_bytes: 100, ..Limits::default() });
    let new = |id: &str, webhook: &str| {
        let mut request = Request::new(payload(&"x".repeat(1000)), Policy::default(), Duration::from_secs(300));
        request.webhook = Some(webhook).filter(|url| !url.is_empty()).map(Arc::from);
        NewJob { id: Arc::from(id), request: request.map(|_, payload| Filed::Fresh(payload)) }
    };
    queue.submit(AT, new("a", "")).unwrap();
    queue.submit(AT, new("b", &"u".repeat(60))).unwrap();
    queue.take(AT, "w", 2);
    queue.finish(AT, "w", "a", Outcome::failed("e".repeat(39)));
    queue.submit(AT, new("c", "")).unwrap();
    queue.take(AT, "w", 1);
    let ending = Ending { cost: Some(payload(&1)), ..Ending::default() };
    queue.finish(AT, "w", "c", Outcome { ending, ..Outcome::default() });
    assert_eq!(queue.submit(AT, new("d", "")).unwrap_err(), StoreError::QueueFull);
    queue.retry(AT, "a").unwrap();
    queue.submit(AT, new("d", "")).unwrap();
}

#[test]
fn a_timeout_that_a_worker_reports_counts_as_one_when_the_time_is_over() {
    let run_time = Policy::default().run_time();
    for (timeout_status, after, counts, timeouts) in [
        (Status::Failed, run_time, (1, 0), 1),
        (Status::TimedOut, run_time, (0, 1), 1),
        (Status::TimedOut, run_time / 2, (1, 0), 0),
    ] {
        let mut queue: Queue = Queue::new(Limits { timeout_status, ..Limits::default() });
        queue.submit(AT, new_job("a", Policy::default())).unwrap();
        queue.take(AT, "w", 1);
        let at = AT + after;
        queue.finish(at, "w", "a", Outcome { timed_out: true, ..Outcome::failed("e") });
        let view = queue.view("a").unwrap();
        let status = if timeouts == 0 { Status::Failed } else { timeout_status };
        assert_eq!((view.status, view.ending.error.as_deref()), (status, Some("e")));
        let totals = queue.observe(at).totals;
        assert_eq!(((totals.failed, totals.timed_out), totals.execution_timeouts), (counts, timeouts));
    }
}

#[test]
fn the_longest_silent_worker_makes_room() {
    let mut queue: Queue = Queue::new(Limits { max_workers: 2, ..Limits::default() });
    for (second, worker) in [(1, "w0"), (2, "w1"), (3, "w2")] {
        queue.heartbeat(Duration::from_secs(second), worker, &Heartbeat::default());
    }
    assert_eq!(queue.health(Duration::from_secs(3)).workers.initializing, 2);
    assert!(queue.workers.get("w0").is_none());
}

#[test]
fn a_job_that_is_handed_back_waits_at_its_old_position_and_has_lost_no_retry() {
    let mut queue = queue_with(&["a", "b", "c"]);
    queue.heartbeat(AT, "w0", &Heartbeat::default());
    queue.take(AT, "w0", 2);
    queue.stream_item(AT, "w0", "a", payload("item")).unwrap();
    assert_eq!(queue.hand_back(AT, "w1", &["a"]), 0, "another worker holds it");
    for expected in [2, 0] {
        assert_eq!(queue.hand_back(AT, "w0", &["b", "a", "c", "unknown"]), expected);
    }
    let view = queue.view("a").unwrap();
    assert_eq!((view.status, view.attempt.retries, view.attempt.worker), (Status::InQueue, 0, None));
    assert_eq!(queue.drain("a").unwrap().1.len(), 0, "the next attempt streams from the beginning");
    assert_eq!(queue.observe(AT).totals.handed_back, 2);
    assert_eq!(ids(&queue.take(AT, "w1", 9)), ["a", "b", "c"]);
    assert_eq!(queue.hand_back(AT, "w0", &["a"]), 0, "a late repetition takes nothing from the next worker");
}

#[test]
fn a_worker_that_left_is_in_no_counter_and_one_that_vanished_is_lost_for_a_while() {
    let mut queue = queue_with(&["a"]);
    for worker in ["leaves", "vanishes", "leaves-with-a-result"] {
        queue.heartbeat(AT, worker, &Heartbeat::default());
        queue.poll_started(AT, worker);
        queue.poll_ended(AT, worker, true);
    }
    queue.take(AT, "leaves-with-a-result", 1);
    queue.goodbye("leaves");
    queue.goodbye("leaves-with-a-result");
    let soon = queue.health(AT).workers;
    assert_eq!((soon.idle, soon.running, soon.lost, soon.unhealthy), (1, 0, 0, 0));
    queue.finish(AT, "leaves-with-a-result", "a", Outcome::completed(None));
    queue.finish(AT, "leaves", "a", Outcome::default());
    assert_eq!(queue.view("a").unwrap().status, Status::Completed);
    let limits = Limits::default();
    let later = AT + limits.lease + Duration::from_secs(1);
    let counts = queue.health(later).workers;
    assert_eq!((counts.idle, counts.initializing, counts.lost, counts.unhealthy), (0, 0, 1, 0));
    let end = AT + limits.worker_retention;
    queue.tick(end);
    assert_eq!(queue.health(end).workers.lost, 0);
    queue.heartbeat(end, "leaves", &Heartbeat::default());
    assert_eq!(queue.health(end).workers.initializing, 1, "a new process under the id of one that left");
}

#[test]
fn a_second_process_of_one_id_is_refused_until_the_first_has_left() {
    let mut queue = queue_with(&[]);
    queue.admit(AT, "w0", Some("first")).unwrap();
    queue.poll_started(AT, "w0");
    assert_eq!(queue.admit(AT, "w0", Some("second")), Err(StoreError::WorkerIdInUse("w0".into())));
    assert!(queue.workers(AT, 9)[0].has_duplicate);
    assert_eq!(queue.observe(AT).totals.duplicate_workers, 1);
    queue.admit(AT, "w0", Some("first")).unwrap();
    queue.goodbye("w0");
    queue.admit(AT, "w0", Some("second")).unwrap();
    assert_eq!(queue.admit(AT, "w0", Some("first")), Err(StoreError::WorkerIdInUse("w0".into())));
}

#[test]
fn what_a_worker_reported_outlives_its_goodbye() {
    let mut queue = queue_with(&["a", "b"]);
    queue.heartbeat(AT, "sick", &Heartbeat { unhealthy: true, ..Heartbeat::default() });
    queue.goodbye("sick");
    assert_eq!(queue.health(AT).workers.unhealthy, 1);
    queue.take(AT, "used", 1);
    queue.finish(AT, "used", "a", Outcome { refresh: true, ..Outcome::default() });
    queue.goodbye("used");
    assert!(queue.is_refreshing("used"), "its supervisor has not replaced it yet");
    queue.heartbeat(AT, "used", &Heartbeat::default());
    queue.poll_started(AT, "used");
    assert_eq!(ids(&queue.take(AT, "used", 1)), ["b"], "the process that replaced it gets jobs at once");
}

#[test]
fn a_search_looks_at_a_bounded_number_of_jobs_and_goes_on_where_it_ended() {
    let names: Vec<_> = (0..=MAX_SEARCHED).map(|number| format!("job-{number}-end")).collect();
    let queue = queue_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut query = HistoryQuery { text: "JOB-0-".to_owned(), limit: 10, ..HistoryQuery::default() };
    let first = queue.search(&query);
    assert!(first.rows.is_empty() && first.next.is_some());
    query.before = first.next;
    let second = queue.search(&query);
    assert_eq!((second.rows.len(), second.next), (1, None));
    let last = HistoryQuery { limit: 1, before: Some(2), ..HistoryQuery::default() };
    assert_eq!((queue.search(&last).rows.len(), queue.search(&last).next), (1, None), "nothing is older");
}
