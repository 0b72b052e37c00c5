//! Named situations as the snapshot shows them: readiness and its reason, failures by kind, start-up, GPU time and cost.

use std::time::Duration;

use runpod_handler_protocol::{CheckReport, ErrorKind, PROTOCOL_VERSION, ToSupervisor};

use super::world::World;
use crate::{
    Event, ExitReason, GpuUse, JobStatus, Policy, PollAnswer, PollBlocker, ProcessEvent, Report, Snapshot, StartPhase,
    WorkerState,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn reason(world: &World) -> String {
    world.snapshot().reason.unwrap_or_default()
}

fn start_phases(world: &World) -> Vec<(StartPhase, Duration)> {
    let phases = world.reports.iter().filter_map(|report| match report {
        Report::StartPhase { phase, time, .. } => Some((*phase, *time)),
        _ => None,
    });
    phases.collect()
}

fn spent(snapshot: &Snapshot) -> Vec<(GpuUse, u64)> {
    GpuUse::ALL.into_iter().map(|what| (what, snapshot.gpu_time.of(what).as_secs())).filter(|used| used.1 > 0).collect()
}

#[test]
fn user_errors_never_make_a_worker_unready() {
    let mut world = World::serving_with(Policy { crash_limit: 1, ..Policy::default() });
    let kinds = [ErrorKind::Validation, ErrorKind::ModelNotFound, ErrorKind::InferenceError, ErrorKind::Timeout];
    for round in 0..50 {
        for kind in kinds {
            let job = format!("{kind}-{round}");
            world.arrive(&[&job]);
            world.failed(&job, kind, false);
            assert!(world.snapshot().serving);
            world.deliver(0);
            let snapshot = world.snapshot();
            assert_eq!((snapshot.state, snapshot.reason), (WorkerState::Idle, None), "after {job}");
        }
    }
    assert_eq!(world.snapshot().failures, kinds.map(|kind| (kind, 50)).into());
}

#[test]
fn a_panic_that_reloads_a_slot_does_not_make_a_worker_unready() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    world.failed("a", ErrorKind::InferenceError, true);
    assert!(world.snapshot().serving);
}

#[test]
fn a_lost_device_is_the_reason_until_a_new_process_serves() {
    let mut world = World::serving_with(Policy { prefetch: 1, ..Policy::default() });
    world.arrive(&["a", "waits"]);
    world.failed("a", ErrorKind::DeviceLost, false);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.state, snapshot.serving), (WorkerState::Running, false), "it still holds a job");
    assert_eq!(reason(&world), "device_lost: told to");
    world.die(0, ExitReason::Signal(9));
    assert_eq!(reason(&world), "device_lost: told to");
    world.bring_up(0);
    assert!(world.snapshot().serving);
    assert_eq!(world.snapshot().reason, None);
    assert_eq!(world.snapshot().failures, [(ErrorKind::DeviceLost, 1)].into());
}

#[test]
fn a_lost_device_of_one_process_does_not_stop_the_others() {
    let mut world = World::serving_with(Policy { processes: 2, ..Policy::default() });
    world.arrive(&["a"]);
    world.failed("a", ErrorKind::DeviceLost, false);
    let snapshot = world.snapshot();
    assert!(snapshot.serving);
    assert_eq!(snapshot.reason, None);
}

#[test]
fn a_failed_probe_is_shown_as_a_lost_device() {
    let mut world = World::new(Policy::default());
    world.device = "cuda:0";
    world.bring_up(0);
    world.wait(seconds(61));
    world.say(0, ToSupervisor::Probed { slot: 0, ok: false }, bytes::Bytes::new());
    assert!(reason(&world).starts_with("device_lost: "), "{}", reason(&world));
}

#[test]
fn a_crash_is_the_reason_until_a_new_process_serves() {
    let mut world = World::serving();
    world.die(0, ExitReason::Signal(11));
    assert_eq!(world.snapshot().state, WorkerState::Initializing);
    assert_eq!(reason(&world), "the handler process crashed with signal 11 (SIGSEGV)");
    world.bring_up(0);
    assert_eq!(world.snapshot().reason, None);
}

#[test]
fn each_part_of_a_start_has_its_time() {
    let order = runpod_handler_protocol::CheckOrder {
        worker_id: "w".into(),
        slots: 1,
        device: "auto".into(),
        system: true,
        gpu_memory: true,
        min_cuda: (11, 8),
        min_gpu_memory: 0,
        benchmark_limit_ms: 2000,
        gpu_limit_ms: 30_000,
    };
    let mut world = World::new(Policy { checks: Some(order), ..Policy::default() });
    world.wait(seconds(1));
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.wait(seconds(2));
    world.hello(0, PROTOCOL_VERSION, false);
    world.wait(seconds(3));
    let reports =
        [CheckReport::ok("libtorch", "2.11.0"), CheckReport::ok("cuda_version", "driver 12.8, libtorch 12.6")];
    world.say(0, ToSupervisor::Checked, serde_json::to_vec(&reports).unwrap().into());
    world.wait(seconds(9));
    let message = ToSupervisor::Loaded { slot: 0, device: "cpu".into(), millis: 9000, warm_up_millis: 4000 };
    world.say(0, message, bytes::Bytes::new());
    let expected = [
        (StartPhase::Spawn, seconds(1)),
        (StartPhase::Handshake, seconds(2)),
        (StartPhase::Checks, seconds(3)),
        (StartPhase::Load, seconds(5)),
        (StartPhase::WarmUp, seconds(4)),
    ];
    assert_eq!(start_phases(&world), expected);
    let snapshot = world.snapshot();
    assert_eq!(spent(&snapshot), [(GpuUse::WarmUp, 15)]);
    assert_eq!(snapshot.versions.sdk.as_deref(), Some("0.1.0"));
    assert_eq!(snapshot.versions.libtorch.as_deref(), Some("2.11.0"));
    assert_eq!(snapshot.versions.cuda.as_deref(), Some("driver 12.8, libtorch 12.6"));
}

#[test]
fn gpu_time_is_added_to_the_use_of_the_outcome() {
    let mut world = World::serving_with(Policy { price_per_hour: Some(3.6), ..Policy::default() });
    world.arrive(&["good"]);
    world.wait(seconds(10));
    world.done("good");
    world.arrive(&["bad"]);
    world.wait(seconds(20));
    world.failed("bad", ErrorKind::InferenceError, false);
    world.wait(seconds(5));
    world.arrive(&["unwanted"]);
    world.wait(seconds(30));
    world.stop("unwanted");
    world.wait(seconds(2));
    world.failed("unwanted", ErrorKind::Cancelled, false);
    world.feed(Event::Timer);
    let snapshot = world.snapshot();
    let expected = [(GpuUse::Useful, 10), (GpuUse::Failed, 20), (GpuUse::Cancelled, 32), (GpuUse::Idle, 5)];
    assert_eq!(spent(&snapshot), expected);
    let price = snapshot.price.unwrap();
    assert!((price.of(snapshot.gpu_time.total()) - 0.067).abs() < 1e-9);

    let ends: Vec<_> = world
        .reports
        .iter()
        .filter_map(|report| match report {
            Report::JobFinished { status, cost, stop_time, .. } => Some((*status, cost.gpu_time, *stop_time)),
            _ => None,
        })
        .collect();
    let expected = [
        (JobStatus::Completed, seconds(10), None),
        (JobStatus::Failed, seconds(20), None),
        (JobStatus::Cancelled, seconds(32), Some(seconds(2))),
    ];
    assert_eq!(ends, expected);
}

#[test]
fn jobs_that_share_a_process_share_its_time_and_a_lost_run_is_a_failure() {
    let mut world = World::serving_with(Policy { slots: 2, ..Policy::default() });
    world.arrive(&["a", "b"]);
    world.wait(seconds(10));
    world.done("a");
    world.wait(seconds(4));
    world.die(0, ExitReason::Signal(11));
    assert_eq!(spent(&world.snapshot()), [(GpuUse::Useful, 5), (GpuUse::Failed, 9)]);
}

#[test]
fn a_result_says_what_it_cost_only_on_request() {
    for (asked, price) in [(false, Some(3.6)), (true, Some(3.6)), (true, None)] {
        let policy = Policy { cost_in_result: asked, price_per_hour: price, processes: 2, ..Policy::default() };
        let mut world = World::serving_with(policy);
        world.arrive(&["a"]);
        world.wait(seconds(100));
        world.done("a");
        let cost = world.finals[0].1.cost;
        assert_eq!(cost.is_some(), asked);
        assert_eq!(cost.map(|cost| cost.gpu_time), asked.then_some(seconds(100)));
        // Two processes share the price.
        let dollars = cost.and_then(|cost| cost.dollars);
        assert_eq!(dollars.map(|dollars| (dollars * 1e6).round()), price.filter(|_| asked).map(|_| 50_000.0));
    }
}

#[test]
fn the_snapshot_shows_how_and_when_the_last_poll_ended() {
    let mut world = World::serving();
    assert!(world.snapshot().poll.in_flight);
    assert_eq!(world.snapshot().poll.last, None);
    world.wait(seconds(3));
    let ended = world.now;
    world.feed(Event::Poll(PollAnswer::RateLimited { retry_after: seconds(60) }));
    world.wait(seconds(3));
    let poll = world.snapshot().poll;
    assert_eq!((poll.in_flight, poll.last), (false, Some((ended, "rate_limited"))));
}

fn blocked_by(world: &World) -> Option<PollBlocker> {
    world.snapshot().poll.blocked_by
}

#[test]
fn a_worker_that_stays_away_after_a_refresh_shows_why_it_asks_for_no_job() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    world.done_with("a", true, std::collections::BTreeMap::new());
    world.die(0, ExitReason::Signal(9));
    world.bring_up(0);
    world.deliver(0);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.state, blocked_by(&world)), (WorkerState::Idle, Some(PollBlocker::Refreshing)));
    assert!(reason(&world).contains("asked for a fresh worker"), "{}", reason(&world));
}

#[test]
fn a_worker_that_runs_suspects_alone_shows_why_it_asks_for_no_job() {
    let mut world = World::serving_with(Policy { slots: 3, ..Policy::default() });
    world.arrive(&["a", "b"]);
    world.started("a");
    world.started("b");
    world.die(0, ExitReason::Signal(11));
    world.feed(Event::Poll(PollAnswer::Aborted));
    world.bring_up(0);
    assert_eq!((world.snapshot().slots.ready, blocked_by(&world)), (2, Some(PollBlocker::SuspectJobs)));
    assert!(reason(&world).contains("one at a time"), "{}", reason(&world));
}

#[test]
fn a_worker_whose_queue_does_not_answer_shows_it_until_the_next_poll() {
    let mut world = World::serving();
    world.feed(Event::Poll(PollAnswer::Failed { retry_after: seconds(3), reason: "the queue failed".into() }));
    assert_eq!(blocked_by(&world), Some(PollBlocker::QueueUnavailable));
    assert!(reason(&world).contains("failed"), "{}", reason(&world));
    world.wait(seconds(3));
    assert_eq!((blocked_by(&world), world.snapshot().reason), (None, None));
}

#[test]
fn a_busy_worker_has_a_blocker_and_needs_no_reason() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    assert_eq!((blocked_by(&world), world.snapshot().reason), (Some(PollBlocker::NoFreeSlot), None));
}
