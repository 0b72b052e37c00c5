//! Handlers that run jobs in batches: more slots than models.

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, PROTOCOL_VERSION, ToSupervisor};

use super::situations::{SEGV, seconds};
use super::world::World;
use crate::{ExitReason, Policy, ProcessEvent};

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
fn a_batch_that_is_deaf_to_a_cancel_is_ended_after_the_grace_and_its_neighbours_run_again() {
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
fn jobs_of_another_model_may_finish_before_a_deaf_batch_is_ended() {
    let mut world = serving_batches();
    world.arrive(&["a", "b"]);
    world.started("a");
    world.started("b");
    world.stop("a");
    world.wait(seconds(6));
    assert!(!world.killed[0]);
    world.done("b");
    assert!(world.killed[0] && world.result("b") == Some(Ok("42".into())));
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
    assert_eq!(world.snapshot().slots.ready, 1, "the slot of b");
    world.loaded(0, 0);
    assert_eq!(world.snapshot().slots.ready, 8);
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
