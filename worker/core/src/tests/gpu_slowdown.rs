//! Named situations with GPUs that are slowed down.

use std::time::Duration;

use super::world::World;
use crate::{Event, GpuSlowdown, PollAnswer, Report, SlowdownReason, WorkerState};

fn hot(gpu: usize) -> GpuSlowdown {
    GpuSlowdown { gpu, reasons: vec![SlowdownReason::SwThermal, SlowdownReason::HwSlowdown] }
}

fn seen(world: &World) -> (WorkerState, Option<String>) {
    let snapshot = world.snapshot();
    (snapshot.state, snapshot.reason)
}

#[test]
fn an_idle_worker_with_a_hot_gpu_is_throttled_and_says_why() {
    let mut world = World::serving();
    world.feed(Event::GpuSlowdowns(vec![hot(0), hot(3)]));
    let reason = "GPU 0 is slowed down (sw_thermal, hw_slowdown); GPU 3 is slowed down (sw_thermal, hw_slowdown)";
    assert_eq!(seen(&world), (WorkerState::Throttled, Some(reason.to_owned())));
    world.feed(Event::GpuSlowdowns(Vec::new()));
    assert_eq!(seen(&world), (WorkerState::Idle, None));
}

#[test]
fn a_worker_with_a_hot_gpu_goes_on_taking_jobs_and_shows_the_reason() {
    let mut world = World::serving();
    world.feed(Event::GpuSlowdowns(vec![hot(0)]));
    assert_eq!(world.poll, Some(1));
    world.arrive(&["a"]);
    let (state, reason) = seen(&world);
    assert_eq!(state, WorkerState::Running);
    assert!(reason.unwrap().starts_with("GPU 0 is slowed down"));
    world.done("a");
    assert_eq!(seen(&world).0, WorkerState::Throttled);
}

#[test]
fn a_queue_that_wants_fewer_requests_and_a_hot_gpu_are_both_named() {
    let mut world = World::serving();
    world.feed(Event::Poll(PollAnswer::RateLimited { retry_after: Duration::from_secs(5) }));
    world.feed(Event::GpuSlowdowns(vec![hot(0)]));
    let (state, reason) = seen(&world);
    let reason = reason.unwrap();
    assert!(state == WorkerState::Throttled && reason.contains("429") && reason.contains("GPU 0"), "{reason}");
}

#[test]
fn a_worker_that_starts_or_drains_is_not_throttled() {
    let mut world = World::new(crate::Policy::default());
    world.feed(Event::GpuSlowdowns(vec![hot(0)]));
    assert_eq!(seen(&world).0, WorkerState::Initializing);
    world.bring_up(0);
    assert_eq!(seen(&world).0, WorkerState::Throttled);
    world.drain();
    assert_eq!(seen(&world).0, WorkerState::Draining);
}

#[test]
fn gpu_slowdowns_are_reported_only_when_they_change() {
    let mut world = World::serving();
    for gpus in [vec![hot(0)], vec![hot(0)], vec![hot(1)], vec![], vec![]] {
        world.feed(Event::GpuSlowdowns(gpus));
    }
    let reported = world.reports.iter().filter(|report| matches!(report, Report::GpuSlowdowns { .. })).count();
    assert_eq!(reported, 3);
}
