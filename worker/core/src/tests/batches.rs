//! Handlers that run jobs in batches: more slots than models.

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, PROTOCOL_VERSION, ToSupervisor};

use super::situations::{SEGV, seconds};
use super::world::World;
use crate::{ExitReason, Policy, ProcessEvent, Report};

/// A serving process with two models, each of which runs batches of four jobs.
fn serving_batches() -> World {
    let mut world = World::new(Policy { slots: 2, ..Policy::default() });
    bring_up(&mut world);
    world
}

/// The same with a single model.
fn one_model() -> World {
    let mut world = World::new(Policy::default());
    bring_up_one(&mut world);
    world
}

fn bring_up_one(world: &mut World) {
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.introduce(0, PROTOCOL_VERSION, false, Some(4));
    world.loaded(0, 0);
}

fn loading(world: &mut World, slot: u32) {
    let message = ToSupervisor::Loading { slot, stage: "again".into(), done: 0, total: 0 };
    world.say(0, message, Bytes::new());
}

fn bring_up(world: &mut World) {
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.introduce(0, PROTOCOL_VERSION, false, Some(4));
    world.loaded(0, 0);
    assert_eq!(world.snapshot().slots.loading, 6, "the second model is still loading");
    world.loaded(0, 1);
}

#[test]
fn a_worker_asks_for_one_batch_for_each_model_and_one_that_waits() {
    let mut world = serving_batches();
    assert_eq!((world.snapshot().slots.ready, world.poll), (12, Some(12)));
    let jobs: Vec<String> = (0..12).map(|number| format!("job-{number:02}")).collect();
    world.arrive(&jobs.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((world.running().len(), world.poll), (12, None), "every job is in the process, and no other is wanted");
    for job in &jobs {
        world.started(job);
        world.done(job);
        assert_eq!(world.result(job), Some(Ok("42".into())));
    }
    assert_eq!(world.poll, Some(1), "the poll for the first free slot goes on");
}

#[test]
fn the_progress_of_a_model_counts_for_all_of_its_slots() {
    let policy = Policy { slots: 2, load_stall_timeout: seconds(10), ..Policy::default() };
    let mut world = World::new(policy);
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.introduce(0, PROTOCOL_VERSION, false, Some(4));
    for _ in 0..3 {
        world.wait(seconds(8));
        for slot in 0..2 {
            let message = ToSupervisor::Loading { slot, stage: "weights".into(), done: 1, total: 9 };
            world.say(0, message, Bytes::new());
        }
    }
    world.loaded(0, 0);
    world.loaded(0, 1);
    assert_eq!(world.poll, Some(12));
}

#[test]
fn after_a_crash_each_job_of_the_batch_runs_alone_and_waiting_jobs_are_not_blamed() {
    let mut world = serving_batches();
    world.arrive(&["a", "b", "c"]);
    world.started("a");
    world.started("b");
    world.die(0, SEGV);
    bring_up(&mut world);
    assert_eq!(world.running(), ["a/2"], "alone");
    world.started("a");
    world.done("a");
    world.started("b");
    world.die(0, SEGV);
    assert_eq!(world.result("b"), Some(Err(ErrorKind::Crashed)), "it was b");
    bring_up(&mut world);
    world.done("c");
    assert_eq!((world.result("a"), world.result("c")), (Some(Ok("42".into())), Some(Ok("42".into()))));
}

#[test]
fn a_batch_that_ignores_a_cancel_is_ended_after_the_grace_and_its_neighbours_run_again() {
    let mut world = one_model();
    world.arrive(&["a", "b", "c"]);
    world.started("a");
    world.started("b");
    world.stop("a");
    world.wait(seconds(4));
    assert!(!world.killed[0]);
    world.wait(seconds(1));
    assert!(world.killed[0], "nobody waits for jobs that cannot finish");
    world.die(0, ExitReason::Signal(9));
    bring_up_one(&mut world);
    let mut running = world.running();
    running.sort();
    assert_eq!(running, ["b/2", "c/2"], "together, because none of them is blamed");
    for job in ["b", "c"] {
        world.started(job);
        world.done(job);
        assert_eq!(world.result(job), Some(Ok("42".into())));
    }
}

#[test]
fn jobs_of_another_model_may_finish_before_a_stuck_batch_is_ended() {
    // An older SDK does not say which model it is.
    for models in [[Some(0), Some(1)], [None, None]] {
        let mut world = serving_batches();
        world.arrive(&["a", "b"]);
        world.started_in("a", models[0]);
        world.started_in("b", models[1]);
        world.stop("a");
        world.wait(seconds(6));
        assert!(!world.killed[0]);
        world.done("b");
        assert!(world.killed[0] && world.result("b") == Some(Ok("42".into())));
    }
}

#[test]
fn with_several_models_a_stuck_batch_is_ended_as_soon_as_only_its_neighbours_and_waiting_jobs_are_left() {
    let mut world = serving_batches();
    world.arrive(&["a", "b", "c", "d"]);
    // Slots say nothing about the model.
    world.started_in("a", Some(1));
    world.started_in("b", Some(1));
    world.started_in("c", Some(0));
    world.stop("a");
    world.wait(seconds(5));
    assert!(!world.killed[0], "c may finish");
    world.done("c");
    assert!(world.killed[0], "b is part of the stuck batch, and d is not begun");
    world.die(0, ExitReason::Signal(9));
    bring_up(&mut world);
    let mut running = world.running();
    running.sort();
    assert_eq!(running, ["b/2", "d/2"], "together, because none of them is blamed");
}

#[test]
fn a_model_that_loads_again_gets_no_new_jobs_and_its_running_ones_go_on() {
    let mut world = one_model();
    world.arrive(&["a", "b"]);
    world.started("a");
    world.started("b");
    world.failed("a", ErrorKind::InferenceError, false);
    loading(&mut world, 0);
    let slots = world.snapshot().slots;
    assert_eq!((slots.loading, slots.ready, slots.busy), (7, 0, 1));
    world.done("b");
    assert_eq!(world.snapshot().slots.ready, 0, "the slot of b waits for the model, too");
    world.loaded(0, 0);
    assert_eq!(world.snapshot().slots.ready, 8);
}

#[test]
fn a_model_whose_next_load_hangs_while_all_slots_are_busy_costs_its_process_and_no_job() {
    let mut world = World::new(Policy { load_stall_timeout: seconds(10), ..Policy::default() });
    bring_up_one(&mut world);
    let jobs = ["a", "b", "c", "d", "e", "f", "g", "h"];
    world.arrive(&jobs);
    world.started("a");
    loading(&mut world, 0);
    world.wait(seconds(9));
    loading(&mut world, 0);
    world.wait(seconds(9));
    assert!(!world.killed[0], "it makes progress");
    world.wait(seconds(1));
    assert!(world.killed[0]);
    world.die(0, ExitReason::Signal(9));
    world.wait(seconds(5));
    bring_up_one(&mut world);
    for job in jobs {
        world.started(job);
        world.done(job);
        assert_eq!(world.result(job), Some(Ok("42".into())));
    }
    world.wait(seconds(60));
    assert!(!world.killed[0], "the new process has nothing to load");
}

#[test]
fn a_model_that_has_loaded_again_while_all_slots_are_busy_goes_on() {
    let mut world = World::new(Policy { load_stall_timeout: seconds(10), ..Policy::default() });
    bring_up_one(&mut world);
    world.arrive(&["a", "b", "c", "d", "e", "f", "g", "h"]);
    loading(&mut world, 0);
    world.loaded(0, 0);
    world.wait(seconds(60));
    assert!(!world.killed[0]);
    world.started("a");
    world.done("a");
    assert_eq!(world.snapshot().slots.ready, 1);
}

#[test]
fn a_handler_that_announces_too_many_jobs_is_refused_with_the_numbers() {
    for (items, slots) in [(u32::MAX, 1), (1024, 8)] {
        let mut world = World::new(Policy { slots, ..Policy::default() });
        world.process(0, ProcessEvent::Spawned { pid: 100 });
        world.introduce(0, PROTOCOL_VERSION, false, Some(items));
        assert!(world.killed[0]);
        world.die(0, ExitReason::Signal(9));
        let reason = world.reports.iter().find_map(|report| match report {
            Report::StartFailed { reason, retry_in: None, .. } => Some(reason.clone()),
            _ => None,
        });
        let reason = reason.expect("another start would not change it");
        assert!(reason.contains(&format!("runs {items} jobs in each of {slots} models")), "{reason}");
    }
}

#[test]
fn a_model_that_cannot_load_again_ends_its_process_and_the_jobs_that_wait_run_again() {
    let mut world = one_model();
    let jobs = ["a", "b", "c", "d", "e", "f", "g", "h"];
    world.arrive(&jobs);
    world.started("a");
    loading(&mut world, 0);
    let report = br#"{"kind": "load", "message": "no memory"}"#;
    world.say(0, ToSupervisor::LoadFailed { slot: 0 }, Bytes::from_static(report));
    assert!(!world.killed[0], "all slots are busy, and it exits by itself");
    world.die(0, ExitReason::Code(1));
    world.wait(seconds(5));
    bring_up_one(&mut world);
    for job in &jobs[1..] {
        world.started(job);
        world.done(job);
        assert_eq!(world.result(job), Some(Ok("42".into())));
    }
}
