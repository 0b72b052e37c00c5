//! Jobs that another endpoint runs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::store::counts::WorkerCounts;
use crate::store::views::{JobElsewhere, Overdue, WorkerState};
use crate::store::workers::OVERFLOW;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn overdue(after: u64, max: usize) -> Overdue {
    Overdue { after: seconds(after), max, ..Overdue::default() }
}

#[test]
fn jobs_that_have_waited_for_long_enough_are_taken_in_order_and_those_of_low_priority_are_not() {
    let mut queue = queue_with(&["a", "b", "c"]);
    queue.submit(AT, new_job("low", Policy { low_priority: true, ..Policy::default() })).unwrap();
    queue.submit(AT + seconds(5), new_job("young", Policy::default())).unwrap();
    let now = AT + seconds(10);
    queue.tick(now);
    assert!(queue.take_overdue(now, &overdue(11, 9)).is_empty());
    assert!(queue.take_overdue(now, &overdue(0, 0)).is_empty());
    let except = Overdue { except: HashSet::from([Arc::from("a")]), ..overdue(10, 1) };
    assert_eq!(ids(&queue.take_overdue(now, &except)), ["b"]);
    assert_eq!(ids(&queue.take_overdue(now, &overdue(10, 9))), ["a", "c"]);
    assert_eq!(ids(&queue.take(now, "w", 9)), ["young", "low"]);
}

#[test]
fn the_time_of_a_job_begins_when_it_begins_there() {
    let policy = Policy { execution_timeout: Some(seconds(30)), ttl: seconds(1000), ..Policy::default() };
    let mut queue = Queue::new(Limits::default());
    queue.submit(AT, new_job("a", policy)).unwrap();
    queue.take_overdue(AT, &overdue(0, 1));
    let beat = Heartbeat { jobs: vec![Arc::from("a")], ..Heartbeat::default() };
    let mut now = AT;
    for _ in 0..20 {
        now += seconds(20);
        queue.tick(now);
        queue.heartbeat(now, OVERFLOW, &beat);
        assert_eq!(queue.view("a").unwrap().status, Status::InQueue);
    }
    queue.begun_elsewhere(now, "a", seconds(2));
    let view = queue.view("a").unwrap();
    assert_eq!((view.status, view.attempt.delay), (Status::InProgress, Some(seconds(398))));
    // Once only: what follows is no new beginning.
    queue.begun_elsewhere(now + seconds(5), "a", Duration::ZERO);
    assert_eq!(queue.view("a").unwrap().attempt.delay, Some(seconds(398)));
    now += seconds(20);
    queue.tick(now);
    queue.heartbeat(now, OVERFLOW, &beat);
    // 30 s, and twice the grace of 10 s, less the 2 s that it ran before.
    now = AT + seconds(400) + seconds(47);
    queue.tick(now);
    assert_eq!(queue.view("a").unwrap().status, Status::InProgress);
    queue.heartbeat(now, OVERFLOW, &beat);
    queue.tick(now + seconds(1));
    assert_eq!(queue.view("a").unwrap().status, Status::Failed);
    assert_eq!(queue.take_stops(OVERFLOW), [Arc::from("a")], "it is cancelled there");
}

#[test]
fn only_jobs_of_the_overflow_are_elsewhere() {
    let mut queue = queue_with(&["a", "b"]);
    queue.take(AT, "w", 1);
    queue.take_overdue(AT, &overdue(0, 1));
    for id in ["a", "b"] {
        queue.accepted_elsewhere(id, "far");
        queue.begun_elsewhere(AT, id, Duration::ZERO);
    }
    let run_time = Policy::EXECUTION_TIMEOUT;
    let b = JobElsewhere { id: Arc::from("b"), far_id: Some(Arc::from("far")), has_begun: true, run_time };
    assert_eq!(queue.elsewhere(), [b]);
    assert_eq!(queue.hand_back(AT, OVERFLOW, &["a", "b"]), 1);
    assert!(queue.elsewhere().is_empty());
    // A second time it starts from nothing.
    assert_eq!(ids(&queue.take_overdue(AT, &overdue(0, 1))), ["b"]);
    let b = JobElsewhere { id: Arc::from("b"), far_id: None, has_begun: false, run_time };
    assert_eq!(queue.elsewhere(), [b]);
    assert_eq!((queue.view("b").unwrap().attempt.retries, queue.view("b").unwrap().status), (0, Status::InQueue));
}

#[test]
fn only_jobs_that_end_in_time_are_taken_where_a_longest_time_is_given() {
    let mut queue = queue_with(&["usual"]);
    let short = Policy { execution_timeout: Some(seconds(30)), ..Policy::default() };
    queue.submit(AT, new_job("short", short)).unwrap();
    let within = |time| Overdue { run_time: Some(seconds(time)), ..overdue(0, 9) };
    assert!(queue.take_overdue(AT, &within(29)).is_empty());
    assert_eq!(ids(&queue.take_overdue(AT, &within(30))), ["short"]);
    assert_eq!(ids(&queue.take_overdue(AT, &within(600))), ["usual"]);
}

#[test]
fn a_job_that_no_one_has_accepted_can_be_submitted_again_as_it_was_taken() {
    let mut queue = queue_with(&["a", "b"]);
    let now = AT + seconds(7);
    queue.take(now, "w", 1);
    let taken = queue.take_overdue(now, &overdue(0, 1)).remove(0);
    let again = queue.taken_elsewhere("b").unwrap();
    assert_eq!((&again.id, again.attempt, again.submitted, again.delay), (&taken.id, taken.attempt, AT, seconds(7)));
    assert!(queue.taken_elsewhere("a").is_none(), "a worker of this endpoint has it");
    queue.accepted_elsewhere("b", "far");
    assert!(queue.taken_elsewhere("b").is_none());
}

#[test]
fn the_overflow_counts_as_a_worker_only_with_a_job() {
    let mut queue = queue_with(&["a"]);
    queue.take_overdue(AT, &overdue(9, 1));
    assert_eq!(queue.workers(AT, 9)[0].state, WorkerState::Standby);
    assert_eq!(queue.health(AT).workers, WorkerCounts::default());
    queue.take_overdue(AT, &overdue(0, 1));
    let seen =
        |queue: &Queue| (queue.health(AT).workers.running, queue.health(AT).in_queue, queue.health(AT).in_progress);
    assert_eq!((seen(&queue), queue.load(AT).in_progress), ((1, 1, 0), 0), "it waits there");
    queue.begun_elsewhere(AT, "a", Duration::ZERO);
    assert_eq!((seen(&queue), queue.load(AT).in_progress), ((1, 0, 1), 0));
    // One that has gone silent is lost, as every worker.
    queue.tick(AT + seconds(41));
    assert_eq!(queue.workers(AT + seconds(41), 9)[0].state, WorkerState::Lost);
    assert_eq!(queue.view("a").unwrap().attempt.retries, 1);
}

#[test]
fn the_record_of_a_job_that_is_to_be_cancelled_elsewhere_is_kept_for_that() {
    let retention = seconds(60);
    let policy = Policy { ttl: seconds(1000), ..Policy::default() };
    let mut queue = Queue::new(Limits::default());
    let mut job = new_job("a", policy);
    job.request.retention = retention;
    queue.submit(AT, job).unwrap();
    queue.take_overdue(AT, &overdue(0, 1));
    queue.accepted_elsewhere("a", "far");
    queue.cancel(AT, "a").unwrap();
    queue.tick(AT + retention + seconds(1));
    assert_eq!(queue.cancels_elsewhere().len(), 1);
    queue.cancelled_elsewhere("a", "far");
    queue.tick(AT + retention + seconds(2));
    assert!(queue.view("a").is_none());
    // It lives there for as long as it would have here.
    queue.submit(AT, new_job("b", policy)).unwrap();
    queue.take_overdue(AT, &overdue(0, 1));
    queue.accepted_elsewhere("b", "far");
    queue.cancel(AT, "b").unwrap();
    queue.tick(AT + seconds(1001));
    assert!(queue.view("b").is_none() && queue.cancels_elsewhere().is_empty());
}

#[test]
fn a_job_that_may_run_for_too_long_is_late_all_the_same() {
    let mut queue = queue_with(&["a"]);
    let late = Overdue { run_time: Some(seconds(1)), ..overdue(5, 9) };
    assert!(!queue.is_overdue(AT, &late));
    assert!(queue.take_overdue(AT + seconds(5), &late).is_empty());
    assert!(queue.is_overdue(AT + seconds(5), &late));
    let except = Overdue { except: HashSet::from([Arc::from("a")]), ..late.clone() };
    assert!(!queue.is_overdue(AT + seconds(5), &except));
    queue.set_paused(true);
    assert!(!queue.is_overdue(AT + seconds(5), &late));
}
