//! Handlers that run jobs in batches: more slots than models.

use bytes::Bytes;
use runpod_handler_protocol::{ErrorKind, PROTOCOL_VERSION, ToSupervisor};

use super::situations::{SEGV, seconds};
use super::world::World;
use crate::{Policy, ProcessEvent};

/// A serving process with two models, each of which runs batches of four jobs.
fn serving_batches() -> World {
    let mut world = World::new(Policy { slots: 2, ..Policy::default() });
    bring_up(&mut world);
    world
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
