//! What is shown of batches and steps.

use bytes::Bytes;
use runpod_handler_protocol::{
    BatchReport, ClosedBy, LimitsNow, PROTOCOL_VERSION, StepReport, ToHandler, ToSupervisor,
};

use super::situations::{SEGV, seconds};
use super::world::World;
use crate::{BatchingView, Policy, ProcessEvent, Report};

const LIMITS: LimitsNow = LimitsNow { budget: Some(50), max_cost: Some(100), max_wait_ms: None };

fn view(world: &World) -> BatchingView {
    world.snapshot().processes[0].batching.unwrap()
}

/// A serving process that runs batches.
fn bring_up(world: &mut World, max_jobs: u32) {
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.introduce(0, PROTOCOL_VERSION, true, Some(max_jobs));
    world.loaded(0, 0);
}

fn serving(max_jobs: u32) -> World {
    let mut world = World::new(Policy::default());
    bring_up(&mut world, max_jobs);
    world
}

fn batch(jobs: u32) -> BatchReport {
    BatchReport { model: 0, jobs, cost: 40, closed_by: ClosedBy::Idle, limits: LIMITS }
}

#[test]
fn jobs_wait_in_the_process_until_their_batch_begins() {
    let mut world = serving(2);
    world.arrive(&["a", "b", "c"]);
    assert_eq!((view(&world).max_jobs, view(&world).running, view(&world).waiting), (2, 0, 3));
    world.wait(seconds(7));
    world.started("a");
    world.started("b");
    world.say(0, ToSupervisor::Batch(batch(2)), Bytes::new());
    let seen = view(&world);
    assert_eq!((seen.running, seen.waiting, seen.batches.mean_jobs()), (2, 1, Some(2.0)));
    assert_eq!((seen.batches.last, seen.limits), (Some(batch(2)), Some(LIMITS)));
    let waits: Vec<u64> = world
        .reports
        .iter()
        .filter_map(|report| match report {
            Report::JobBegun { waited, .. } => Some(waited.as_secs()),
            _ => None,
        })
        .collect();
    assert_eq!(waits, [7, 7]);
    world.done("a");
    world.done("b");
    world.started("c");
    world.say(0, ToSupervisor::Batch(batch(1)), Bytes::new());
    let seen = view(&world);
    assert_eq!((seen.running, seen.waiting, seen.batches.mean_jobs()), (1, 0, Some(1.5)));
}

#[test]
fn steps_are_added_up_and_their_rate_is_the_last_one() {
    let mut world = serving(16);
    assert_eq!((view(&world).steps.mean_jobs(), view(&world).steps.per_second()), (None, None));
    let steps = |steps, advanced| StepReport { model: 0, steps, advanced, millis: 500, cost: 7, limits: LIMITS };
    world.say(0, ToSupervisor::Steps(steps(10, 160)), Bytes::new());
    world.say(0, ToSupervisor::Steps(steps(30, 240)), Bytes::new());
    let seen = view(&world).steps;
    assert_eq!((seen.count, seen.mean_jobs(), seen.per_second()), (40, Some(10.0), Some(60.0)));
}

#[test]
fn a_handler_without_batches_shows_none() {
    let world = World::serving();
    assert_eq!(world.snapshot().processes[0].batching, None);
}

#[test]
fn the_worker_asks_for_reports() {
    let mut world = World::new(Policy::default());
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    assert!(world.was_sent(|message| matches!(message, ToHandler::Hello { batch_reports: true, .. })));
}

#[test]
fn the_figures_of_a_new_process_begin_at_zero() {
    let mut world = serving(2);
    world.say(0, ToSupervisor::Batch(batch(2)), Bytes::new());
    assert_eq!(view(&world).batches.count, 1);
    world.die(0, SEGV);
    world.wait(seconds(1));
    bring_up(&mut world, 2);
    assert_eq!((view(&world).batches.count, view(&world).limits), (0, None));
}
