//! Named situations around stops and retries: a job that was taken is run, answered, handed back or known to be stopped.

use runpod_handler_protocol::ErrorKind;

use super::situations::busy;
use super::world::World;
use crate::{ExitReason, Policy};

/// Two slots, one of which runs the job `a`.
fn one_of_two_slots_busy() -> World {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.arrive(&["a"]);
    world.started("a");
    world
}

#[test]
fn a_late_stop_of_a_failed_job_does_not_swallow_its_retry() {
    let mut world = busy(1);
    world.failed("a", ErrorKind::InferenceError, false);
    world.deliver(0);
    world.stop("a");
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"]);
}

#[test]
fn a_late_stop_of_a_cancelled_job_does_not_swallow_its_retry() {
    let mut world = one_of_two_slots_busy();
    world.stop("a");
    world.failed("a", ErrorKind::Cancelled, false);
    world.stop("a");
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"]);
}

#[test]
fn a_retry_that_arrives_while_its_cancelled_run_still_ends_is_run_afterwards() {
    let mut world = one_of_two_slots_busy();
    world.stop("a");
    world.arrive(&["a"]);
    assert_eq!(world.running(), ["a/1"], "the cancelled run has not ended");
    world.failed("a", ErrorKind::Cancelled, false);
    assert_eq!(world.running(), ["a/1"], "this is the retry");
    world.started("a");
    world.done("a");
    assert_eq!(world.result("a"), Some(Ok("42".into())));
}

#[test]
fn a_retry_that_arrives_before_the_failed_result_is_known_to_be_accepted_is_run() {
    let mut world = one_of_two_slots_busy();
    world.failed("a", ErrorKind::InferenceError, false);
    world.arrive(&["a"]);
    assert!(world.running().is_empty());
    world.deliver(0);
    assert_eq!(world.running(), ["a/1"]);
}

#[test]
fn a_retry_that_is_stopped_before_it_could_start_is_handed_back() {
    let mut world = one_of_two_slots_busy();
    world.failed("a", ErrorKind::InferenceError, false);
    world.arrive(&["a"]);
    world.stop("a");
    world.deliver(0);
    assert_eq!((world.running(), world.handed_back), (vec![], vec!["a".to_owned()]));
}

#[test]
fn a_completed_job_that_arrives_while_its_result_is_delivered_is_not_run_again() {
    let mut world = one_of_two_slots_busy();
    world.done("a");
    world.arrive(&["a"]);
    world.deliver(0);
    assert!(world.running().is_empty());
}

#[test]
fn the_queue_is_told_about_every_job_that_ends_without_a_result() {
    let mut world = World::serving_with(Policy { slots: 2, prefetch: 2, ..Policy::default() });
    world.stop("early");
    world.arrive(&["early", "a", "b", "c"]);
    assert_eq!(world.handed_back, ["early"]);
    world.stop("c");
    assert_eq!(world.handed_back, ["early", "c"]);
    world.drain();
    world.wait(Policy::default().drain_grace);
    world.failed("a", ErrorKind::Cancelled, false);
    world.failed("b", ErrorKind::Cancelled, false);
    assert_eq!(world.handed_back, ["early", "c", "a", "b"]);
}

#[test]
fn a_job_that_arrives_after_the_last_one_has_ended_is_handed_back() {
    let mut world = World::serving();
    world.drain();
    world.wait(Policy::default().poll_grace + Policy::default().poll_abort_timeout);
    world.feed(crate::Event::Poll(crate::PollAnswer::Jobs(vec![super::world::taken("a")])));
    assert_eq!((world.running(), &world.handed_back[..]), (vec![], &["a".to_owned()][..]));
    world.die(0, ExitReason::Code(0));
    assert_eq!(world.exit, Some(0));
}
