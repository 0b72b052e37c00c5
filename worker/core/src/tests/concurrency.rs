//! Async handlers, which run many jobs at the same time and change how many.

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, ErrorReport, ToSupervisor};

use super::situations::SEGV;
use super::world::World;
use crate::{Event, Policy, PollAnswer, Report};

/// A serving async handler that runs four jobs at the same time, whatever the number of slots that was asked for.
fn serving() -> World {
    let mut world = World::new(Policy { slots: 2, ..Policy::default() });
    world.bring_up_async(0, 4);
    world
}

fn ready_and_busy(world: &World) -> (usize, usize) {
    let slots = world.snapshot().slots;
    (slots.ready, slots.busy)
}

#[test]
fn a_worker_asks_for_as_many_jobs_as_the_handler_runs_at_once() {
    let mut world = serving();
    assert_eq!((ready_and_busy(&world), world.poll), ((4, 0), Some(4)));
    world.arrive(&["a", "b", "c", "d"]);
    assert_eq!((ready_and_busy(&world), world.poll), ((0, 4), None));
    world.done("b");
    assert_eq!(world.poll, Some(1));
}

#[test]
fn very_many_free_slots_are_filled_with_one_poll_after_the_other() {
    let mut world = World::new(Policy { poll_jobs: 3, ..Policy::default() });
    world.bring_up_async(0, 5);
    assert_eq!(world.poll, Some(3));
    world.arrive(&["a", "b", "c"]);
    assert_eq!(
        (ready_and_busy(&world), world.poll),
        ((2, 3), Some(2)),
        "the next poll follows while the first jobs run"
    );
    world.arrive(&["d", "e"]);
    assert_eq!((ready_and_busy(&world), world.poll), ((0, 5), None));
}

#[test]
fn a_larger_number_counts_at_once() {
    let mut world = serving();
    world.arrive(&["a", "b", "c", "d"]);
    world.concurrency(0, 10);
    assert_eq!((ready_and_busy(&world), world.poll), ((6, 4), Some(6)));
    assert_eq!(world.snapshot().processes[0].slots, 10);
}

#[test]
fn with_a_smaller_number_running_jobs_finish_and_no_job_follows_until_there_is_room() {
    let mut world = serving();
    world.arrive(&["a", "b", "c", "d"]);
    world.concurrency(0, 2);
    for (job, busy) in [("a", 3), ("c", 2)] {
        world.done(job);
        assert_eq!((ready_and_busy(&world), world.poll), ((0, busy), None), "after {job}");
    }
    world.done("d");
    assert_eq!((ready_and_busy(&world), world.poll), ((1, 1), Some(1)));
}

#[test]
fn a_poll_for_too_many_jobs_is_given_up_and_what_it_brings_waits() {
    let mut world = serving();
    world.concurrency(0, 1);
    world.arrive(&["a", "b"]);
    assert_eq!(world.running(), ["a/1"]);
    world.done("a");
    assert_eq!(world.running(), ["b/1"]);
    world.done("b");
    assert_eq!(world.poll, Some(1));
    world.concurrency(0, 3);
    world.concurrency(0, 2);
    world.feed(Event::Poll(PollAnswer::Aborted));
    assert_eq!(world.poll, Some(2), "the next poll asks for what can start");
}

#[test]
fn a_number_that_is_set_while_the_handler_loads_counts_from_the_start() {
    let mut world = World::new(Policy::default());
    world.begin_async(0, 4);
    world.concurrency(0, 7);
    world.loaded(0, 0);
    assert_eq!(world.poll, Some(7));
}

#[test]
fn a_new_process_starts_with_the_number_of_its_manifest() {
    let mut world = serving();
    world.concurrency(0, 9);
    world.die(0, SEGV);
    world.bring_up_async(0, 4);
    assert_eq!(ready_and_busy(&world), (4, 0));
}

#[test]
fn only_an_async_handler_has_a_concurrency() {
    let mut world = World::serving();
    world.concurrency(0, 9);
    assert!(world.killed[0]);
}

#[test]
fn a_process_whose_threads_are_blocked_is_replaced_and_its_other_jobs_run_again() {
    let mut world = serving();
    world.arrive(&["blocker", "a", "b"]);
    for job in ["blocker", "a", "b"] {
        world.started(job);
    }
    world.failed("blocker", ErrorKind::InferenceError, false);
    world.say(0, ToSupervisor::Blocked, Bytes::new());
    assert!(world.killed[0]);
    world.die(0, crate::ExitReason::Signal(9));
    world.bring_up_async(0, 4);
    assert_eq!(world.running(), ["a/2", "b/2"], "at the same time: neither is a suspect");
    let blamed = |report: &Report| matches!(report, Report::JobFinished { error: Some(ErrorReport { kind, .. }), .. } if *kind == ErrorKind::Crashed);
    assert!(!world.reports.iter().any(blamed));
    assert_eq!(world.result("blocker"), Some(Err(ErrorKind::InferenceError)));
}
