//! Named situations around the exit and the replacement of handler processes.

use runpod_handler_protocol::{ErrorKind, PROTOCOL_VERSION, ToHandler};

use super::situations::{SEGV, busy, seconds};
use super::world::World;
use crate::{ExitReason, Policy, ProcessEvent, Report, WorkerState};

#[test]
fn a_crash_fails_the_one_job_that_was_running() {
    let mut world = busy(1);
    world.die(0, SEGV);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
    let error = world.finals[0].1.result.clone().unwrap_err();
    assert!(error.message.contains("SIGSEGV") && error.traceback.contains("last words"), "{error:?}");
    world.bring_up(0);
    world.arrive(&["b"]);
    world.done("b");
    assert_eq!(world.result("b"), Some(Ok("42".into())));
}

#[test]
fn a_crash_with_several_jobs_runs_each_again_alone() {
    let mut world = busy(3);
    world.die(0, SEGV);
    assert_eq!((world.snapshot().jobs.retried, world.finals.len()), (3, 0));
    world.bring_up(0);
    assert_eq!(world.running(), ["a/2"], "alone");
    assert_eq!(world.poll, None, "no new job beside a suspect");
    world.done("a");
    assert_eq!(world.running(), ["b/2"]);
    world.started("b");
    world.die(0, SEGV);
    assert_eq!(world.result("b"), Some(Err(ErrorKind::Crashed)), "it was b");
    world.bring_up(0);
    world.done("c");
    assert_eq!(world.result("c"), Some(Ok("42".into())));
    assert_eq!(world.poll, Some(3));
}

#[test]
fn a_job_that_a_dying_process_had_not_begun_is_run_again_without_blame() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.arrive(&["a", "b"]);
    world.started("a");
    world.die(0, SEGV);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)), "there is no doubt who did it");
    assert_eq!((world.result("b"), world.snapshot().jobs.retried), (None, 1));
    world.bring_up(0);
    assert_eq!((world.running(), world.poll), (vec!["b/2".to_owned()], Some(1)), "and not alone");
}

#[test]
fn a_job_whose_mere_arrival_kills_is_not_run_for_ever() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    for attempt in 1..=3 {
        assert_eq!(world.running(), [format!("a/{attempt}")]);
        world.die(0, SEGV);
        world.wait(seconds(20));
        world.bring_up(0);
    }
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
    assert!(world.running().is_empty());
}

#[test]
fn an_idempotent_handler_gets_one_more_try() {
    let mut world = World::new(Policy::default());
    let bring_up = |world: &mut World| {
        world.process(0, ProcessEvent::Spawned { pid: 1 });
        world.hello(0, PROTOCOL_VERSION, true);
        world.loaded(0, 0);
    };
    bring_up(&mut world);
    world.arrive(&["a"]);
    world.started("a");
    world.die(0, SEGV);
    bring_up(&mut world);
    assert_eq!(world.running(), ["a/2"]);
    world.started("a");
    world.die(0, SEGV);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
}

#[test]
fn a_job_that_has_streamed_is_never_run_again() {
    let mut world = busy(2);
    world.chunk("a");
    world.die(0, SEGV);
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Crashed)));
    assert_eq!(world.result("b"), None);
    assert_eq!(world.snapshot().jobs.retried, 1);
}

#[test]
fn a_crash_loop_makes_the_worker_unhealthy_and_it_exits_with_1() {
    let mut world = World::serving();
    for round in 0..5 {
        assert_ne!(world.snapshot().state, WorkerState::Unhealthy);
        let job = format!("job-{round}");
        world.arrive(&[&job]);
        world.started(&job);
        world.die(0, SEGV);
        world.wait(seconds(20));
        world.bring_up(0);
    }
    let snapshot = world.snapshot();
    assert_eq!(snapshot.state, WorkerState::Unhealthy);
    assert!(snapshot.reason.is_some_and(|reason| reason.contains("crashed 5 times")));
    while !world.finals.is_empty() {
        world.deliver(0);
    }
    assert_eq!(world.exit, Some(1));
}

#[test]
fn an_unresponsive_process_is_replaced() {
    let mut world = busy(1);
    world.answers_pings = false;
    world.wait(seconds(5));
    assert!(world.was_sent(|message| matches!(message, ToHandler::Ping { seq: 1 })));
    world.wait(seconds(25));
    assert!(world.killed[0]);
    world.die(0, ExitReason::Signal(9));
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Unresponsive)));
}

#[test]
fn after_a_panic_the_model_is_loaded_again_in_the_same_process() {
    let mut world = busy(1);
    world.failed("a", ErrorKind::InferenceError, true);
    assert_eq!((world.snapshot().slots.loading, world.poll), (1, None));
    world.loaded(0, 0);
    assert_eq!(world.poll, Some(1));
}

#[test]
fn the_second_memory_failure_in_a_row_and_a_lost_device_replace_the_process() {
    let mut world = busy(1);
    world.failed("a", ErrorKind::Oom, false);
    assert!(!world.killed[0]);
    world.arrive(&["b"]);
    world.failed("b", ErrorKind::Oom, false);
    assert!(world.killed[0]);

    let mut world = busy(1);
    world.failed("a", ErrorKind::DeviceLost, false);
    assert!(world.killed[0]);
}

#[test]
fn a_broken_frame_costs_the_process_and_the_job_says_so() {
    let mut world = busy(1);
    world.process(0, ProcessEvent::BadFrame { reason: "not JSON".into() });
    world.die(0, ExitReason::Signal(9));
    assert_eq!(world.result("a"), Some(Err(ErrorKind::Protocol)));
}

#[test]
fn another_protocol_number_is_refused_at_once() {
    let mut world = World::new(Policy::default());
    world.process(0, ProcessEvent::Spawned { pid: 1 });
    world.hello(0, 99, false);
    assert!(world.killed[0]);
    world.die(0, ExitReason::Signal(9));
    assert_eq!(world.exit, Some(1));
    assert!(world.reports.iter().any(|report| matches!(
        report,
        Report::StartFailed { reason, retry_in: None, .. } if reason.contains("speaks protocol 99")
    )));
}

#[test]
fn a_handler_that_cannot_be_started_is_tried_with_pauses_and_then_given_up() {
    let mut world = World::new(Policy::default());
    for _ in 0..3 {
        assert!(world.alive[0].is_some());
        world.process(0, ProcessEvent::Spawned { pid: 1 });
        world.die(0, ExitReason::Code(1));
        world.wait(seconds(4));
    }
    assert_eq!(world.exit, Some(1));
    assert_eq!(world.snapshot().jobs, crate::JobCounts::default(), "no job was ever taken");
}
