//! Named situations around checks, probes, recycling and refreshing.

use std::collections::BTreeMap;
use std::time::Duration;

use runpod_handler_protocol::records::{DEVICE_BYTES, PEAK_DEVICE_BYTES, RESERVED_DEVICE_BYTES};
use runpod_handler_protocol::{
    CheckOrder, CheckReport, ErrorKind, PROTOCOL_VERSION, StopReason, ToHandler, ToSupervisor,
};

use super::world::World;
use crate::{
    DeviceMemory, Event, ExitReason, OnRefresh, Policy, PollAnswer, ProcessEvent, RecycleLimits, RecycleReason, Report,
    WorkerState,
};

const KILLED: ExitReason = ExitReason::Signal(9);
const SEGV: ExitReason = ExitReason::Signal(11);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn recycling(recycle: RecycleLimits) -> Policy {
    Policy { recycle, ..Policy::default() }
}

fn checking() -> Policy {
    let order = CheckOrder {
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
    Policy { checks: Some(order), ..Policy::default() }
}

fn is_check(message: &ToHandler) -> bool {
    matches!(message, ToHandler::Check(_))
}

fn is_probe(message: &ToHandler) -> bool {
    matches!(message, ToHandler::Probe { .. })
}

fn checked(world: &mut World, reports: &[CheckReport]) {
    world.say(0, ToSupervisor::Checked, serde_json::to_vec(reports).unwrap().into());
}

fn recycled(world: &World) -> Vec<RecycleReason> {
    let reasons = world.reports.iter().filter_map(|report| match report {
        Report::ProcessRecycled { reason, .. } => Some(*reason),
        _ => None,
    });
    reasons.collect()
}

/// One job from arrival to acceptance.
fn run_one(world: &mut World, job: &str) {
    world.arrive(&[job]);
    world.done(job);
    world.deliver(0);
}

fn phase(world: &World, index: usize) -> &'static str {
    world.snapshot().processes[index].phase
}

// Checks.

#[test]
fn a_process_is_checked_before_it_loads_and_again_only_after_a_crash() {
    let mut world = World::new(checking());
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.hello(0, PROTOCOL_VERSION, false);
    let order: Vec<_> = world.sent.iter().map(|(_, message)| message).collect();
    assert!(matches!(order[..], [ToHandler::Hello { .. }, ToHandler::Check(_), ToHandler::Load { .. }]), "{order:?}");
    checked(&mut world, &[CheckReport::ok("model", "there"), CheckReport::skipped("cuda", "no GPU")]);
    world.loaded(0, 0);
    assert_eq!(world.poll, Some(1));

    world.arrive(&["a"]);
    world.stop("a");
    world.wait(Policy::default().cancel_grace);
    world.sent.clear();
    world.die(0, KILLED);
    world.bring_up(0);
    assert!(!world.was_sent(is_check), "it was killed for its job's sake");

    world.die(0, SEGV);
    world.bring_up(0);
    assert!(world.was_sent(is_check), "its device may be what killed it");
}

#[test]
fn a_failed_check_keeps_jobs_away_and_ends_the_worker() {
    let mut world = World::new(checking());
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.hello(0, PROTOCOL_VERSION, false);
    checked(&mut world, &[CheckReport::ok("a", ""), CheckReport::failed("model", "it is empty", "run `make model`")]);
    let snapshot = world.snapshot();
    assert_eq!(snapshot.state, WorkerState::Unhealthy);
    assert_eq!(snapshot.reason.as_deref(), Some("it is empty: run `make model`"));
    assert_eq!(world.unhealthy, ["model"], "reported once, with the check's name");
    world.die(0, ExitReason::Code(1));
    assert_eq!((world.poll, world.exit), (None, Some(1)));
}

#[test]
fn checks_that_take_too_long_count_as_a_failed_start() {
    let mut world = World::new(checking());
    world.process(0, ProcessEvent::Spawned { pid: 100 });
    world.hello(0, PROTOCOL_VERSION, false);
    world.wait(Policy::default().load_stall_timeout);
    assert!(world.killed[0]);
}

// Probes.

#[test]
fn an_idle_gpu_is_probed_and_goes_on_taking_jobs() {
    let mut world = World::new(Policy::default());
    world.device = "cuda:0";
    world.bring_up(0);
    world.wait(Policy::default().probe_interval);
    assert!(world.was_sent(is_probe));
    world.arrive(&["a"]);
    assert!(world.running().is_empty(), "the slot is not free yet");
    world.say(0, ToSupervisor::Probed { slot: 0, ok: true }, "".into());
    assert_eq!(world.running(), ["a/1"]);

    world.sent.clear();
    world.wait(Policy::default().probe_interval);
    assert!(!world.was_sent(is_probe), "a job is probe enough");
    world.done("a");
    world.wait(Policy::default().probe_interval);
    assert!(world.was_sent(is_probe));
}

#[test]
fn a_gpu_that_fails_or_ignores_a_probe_costs_the_process() {
    for answers in [true, false] {
        let mut world = World::new(Policy::default());
        world.device = "cuda:0";
        world.bring_up(0);
        world.wait(Policy::default().probe_interval);
        if answers {
            world.say(0, ToSupervisor::Probed { slot: 0, ok: false }, "".into());
        } else {
            world.wait(Policy::default().probe_timeout);
        }
        assert!(world.killed[0]);
        world.die(0, KILLED);
        assert!(world.alive[0].is_some(), "a new process follows");
    }
}

#[test]
fn nothing_is_probed_on_the_cpu_or_when_switched_off() {
    for (device, probe_interval) in [("cpu", seconds(60)), ("cuda:0", Duration::ZERO)] {
        let mut world = World::new(Policy { probe_interval, ..Policy::default() });
        world.device = device;
        world.bring_up(0);
        world.wait(seconds(600));
        assert!(!world.was_sent(is_probe));
    }
}

// Recycling.

#[test]
fn a_process_is_replaced_after_max_jobs_and_never_runs_beside_its_successor() {
    let mut world = World::serving_with(recycling(RecycleLimits { max_jobs: Some(2), ..RecycleLimits::default() }));
    run_one(&mut world, "a");
    assert!(recycled(&world).is_empty());
    let first = world.alive[0];
    run_one(&mut world, "b");
    assert_eq!(recycled(&world), [RecycleReason::Jobs]);
    assert!(world.killed[0]);
    assert_eq!(world.alive[0], first, "the successor waits until it is gone");
    world.die(0, KILLED);
    assert!(world.alive[0] > first, "and then starts at once");
    world.bring_up(0);
    world.feed(Event::Poll(PollAnswer::Empty));
    run_one(&mut world, "c");
    let jobs = world.snapshot().jobs;
    assert_eq!((jobs.completed, jobs.failed, jobs.retried), (3, 0, 0));
    assert_eq!(world.snapshot().state, WorkerState::Idle, "no crash is counted");
}

#[test]
fn jobs_of_a_process_to_be_recycled_finish_first_and_no_new_one_starts() {
    let limits = RecycleLimits { max_jobs: Some(1), ..RecycleLimits::default() };
    let mut world = World::serving_with(Policy { slots: 2, prefetch: 1, ..recycling(limits) });
    world.arrive(&["a", "b", "c"]);
    world.done("a");
    assert_eq!((world.running(), world.killed[0]), (vec!["b/1".to_owned()], false));
    world.wait(seconds(300));
    assert!(!world.killed[0], "within its own deadline a job has all the time it needs");
    world.done("b");
    assert!(world.killed[0]);
    world.die(0, KILLED);
    world.bring_up(0);
    assert_eq!(world.running(), ["c/1"]);
}

#[test]
fn deadlines_hold_while_a_process_waits_to_be_recycled() {
    let limits = RecycleLimits { max_jobs: Some(1), ..RecycleLimits::default() };
    let mut world = World::serving_with(Policy { slots: 2, ..recycling(limits) });
    world.arrive(&["a", "b"]);
    world.done("a");
    let Policy { job_timeout, cancel_grace, .. } = Policy::default();
    world.wait(job_timeout);
    assert!(world.was_sent(|message| matches!(message, ToHandler::Stop { job, .. } if job == "b")));
    world.wait(cancel_grace);
    assert!(world.killed[0]);
    world.die(0, KILLED);
    assert_eq!(world.snapshot().jobs.timed_out, 1);
}

#[test]
fn a_crash_while_a_process_waits_to_be_recycled_is_still_a_crash() {
    let limits = RecycleLimits { max_jobs: Some(1), ..RecycleLimits::default() };
    let mut world = World::serving_with(Policy { slots: 2, ..recycling(limits) });
    world.arrive(&["a", "b"]);
    world.done("a");
    world.started("b");
    world.die(0, SEGV);
    assert_eq!(world.result("b").map(|result| result.is_err()), Some(true), "the job is the suspect");
}

#[test]
fn memory_limits_count_only_after_a_job_has_run() {
    let limits = RecycleLimits { max_rss: Some(1000), max_vram: Some(50), ..RecycleLimits::default() };
    let mut world = World::serving_with(recycling(limits.clone()));
    world.process(0, ProcessEvent::Memory { host_bytes: 2000 });
    assert!(recycled(&world).is_empty(), "a limit below what the model needs must not keep jobs from running");
    run_one(&mut world, "a");
    assert_eq!(recycled(&world), [RecycleReason::HostMemory]);

    let mut world = World::serving_with(recycling(limits));
    for (job, bytes, expected) in [("a", 50.0, vec![]), ("b", 51.0, vec![RecycleReason::DeviceMemory])] {
        world.arrive(&[job]);
        world.done_with(job, false, BTreeMap::from([(DEVICE_BYTES.to_owned(), bytes)]));
        assert_eq!(recycled(&world), expected);
    }
}

#[test]
fn an_old_process_is_replaced_while_it_is_idle() {
    let limits = RecycleLimits { max_age: Some(seconds(60)), ..RecycleLimits::default() };
    let mut world = World::serving_with(recycling(limits));
    world.wait(seconds(100));
    assert!(recycled(&world).is_empty(), "one that has done nothing is as good as new");
    run_one(&mut world, "a");
    assert_eq!(recycled(&world), [RecycleReason::Age]);
    world.die(0, KILLED);
    world.bring_up(0);
    world.feed(Event::Poll(PollAnswer::Empty));
    run_one(&mut world, "b");
    world.wait(seconds(59));
    assert_eq!(recycled(&world).len(), 1);
    world.wait(seconds(1));
    assert_eq!(recycled(&world).len(), 2);
}

#[test]
fn processes_are_replaced_one_after_the_other() {
    let limits = RecycleLimits { max_age: Some(seconds(60)), ..RecycleLimits::default() };
    let mut world = World::serving_with(Policy { processes: 2, ..recycling(limits) });
    world.arrive(&["a", "b"]);
    world.done("a");
    world.done("b");
    world.wait(seconds(60));
    assert_eq!((phase(&world, 0), phase(&world, 1)), ("killing", "serving"));
    world.die(0, KILLED);
    world.wait(seconds(1));
    assert_eq!(phase(&world, 1), "serving", "the first is not back yet");
    world.bring_up(0);
    assert_eq!((phase(&world, 0), phase(&world, 1)), ("serving", "killing"));
}

// Refreshing.

#[test]
fn refresh_worker_ends_the_worker_after_its_first_job() {
    let mut world = World::serving_with(Policy { refresh_worker: true, slots: 2, ..Policy::default() });
    world.arrive(&["a", "b"]);
    world.done("a");
    assert_eq!(world.snapshot().state, WorkerState::Draining);
    assert_eq!(world.running(), ["b/1"], "what runs may finish");
    world.done("b");
    assert!(world.finals.iter().all(|(_, result)| result.stop_pod));
    world.deliver(0);
    world.deliver(0);
    world.die(0, ExitReason::Code(0));
    assert_eq!(world.exit, Some(0));
}

#[test]
fn a_job_that_asks_for_a_refresh_gets_a_new_process() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    world.done_with("a", true, BTreeMap::new());
    assert!(world.finals[0].1.stop_pod);
    assert_eq!(recycled(&world), [RecycleReason::Refresh]);
    world.die(0, KILLED);
    world.bring_up(0);
    world.wait(seconds(7));
    assert_eq!(world.poll, None, "the queue does not know yet");
    world.deliver(0);
    world.wait(seconds(5) - Duration::from_millis(1));
    assert_eq!(world.poll, None, "the queue must see that the old worker is gone");
    world.wait(Duration::from_millis(1));
    assert_eq!(world.poll, Some(1));
    run_one(&mut world, "b");
    assert_eq!(world.snapshot().jobs.completed, 2);
}

#[test]
fn the_absence_after_a_refresh_begins_only_when_no_job_is_held() {
    let mut world = World::serving_with(Policy { processes: 2, ..Policy::default() });
    world.arrive(&["a", "b"]);
    world.done_with("a", true, BTreeMap::new());
    world.deliver(0);
    world.die(0, KILLED);
    world.bring_up(0);
    world.wait(seconds(60));
    assert_eq!(world.poll, None, "b runs");
    world.done("b");
    world.wait(seconds(60));
    assert_eq!(world.poll, None, "its result is on the way");
    world.deliver(0);
    world.wait(seconds(5));
    assert_eq!(world.poll, Some(2));
}

#[test]
fn a_queue_that_does_not_accept_the_stop_pod_result_is_polled_again_until_it_does() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    world.done_with("a", true, BTreeMap::new());
    world.die(0, KILLED);
    world.bring_up(0);
    world.wait(Policy::default().undelivered_grace);
    assert_eq!(world.poll, Some(1), "the result is not accepted, and other jobs wait");
    world.deliver(0);
    world.feed(Event::Poll(PollAnswer::Aborted));
    assert_eq!(world.poll, None, "now it knows");
    world.wait(seconds(5));
    assert_eq!(world.poll, Some(1));
}

#[test]
fn a_queue_inside_the_worker_is_polled_right_after_a_refresh() {
    let mut world = World::serving_with(Policy { processes: 2, queue_recycles: false, ..Policy::default() });
    world.arrive(&["a"]);
    world.done_with("a", true, BTreeMap::new());
    world.deliver(0);
    assert_eq!((world.poll, recycled(&world)), (Some(1), vec![RecycleReason::Refresh]));
}

#[test]
fn a_job_that_asks_for_a_refresh_ends_the_worker_if_so_configured() {
    let mut world = World::serving_with(Policy { on_refresh: OnRefresh::Exit, ..Policy::default() });
    world.arrive(&["a"]);
    world.done_with("a", true, BTreeMap::new());
    world.deliver(0);
    world.die(0, ExitReason::Code(0));
    assert_eq!((world.exit, recycled(&world)), (Some(0), vec![]));
}

#[test]
fn the_neighbours_of_a_job_that_ends_the_worker_have_their_own_time() {
    let mut world = World::serving_with(Policy { on_refresh: OnRefresh::Exit, slots: 3, ..Policy::default() });
    world.arrive(&["a", "b", "c"]);
    world.done_with("a", true, BTreeMap::new());
    let Policy { job_timeout, drain_grace, .. } = Policy::default();
    world.wait(drain_grace * 10);
    world.done("b");
    assert_eq!((world.running(), world.result("b")), (vec!["c/1".to_owned()], Some(Ok("42".into()))));
    world.wait(job_timeout);
    let timed_out = |message: &ToHandler| matches!(message, ToHandler::Stop { reason: StopReason::Deadline, .. });
    assert!(world.was_sent(timed_out), "but no more than that");
}

#[test]
fn a_signal_limits_the_time_of_the_neighbours_of_a_job_that_ends_the_worker() {
    let mut world = World::serving_with(Policy { on_refresh: OnRefresh::Exit, slots: 2, ..Policy::default() });
    world.arrive(&["a", "b"]);
    world.done_with("a", true, BTreeMap::new());
    world.wait(seconds(100));
    world.drain();
    world.wait(Policy::default().drain_grace - seconds(1));
    let asked = |message: &ToHandler| matches!(message, ToHandler::Stop { reason: StopReason::Drain, .. });
    assert!(!world.was_sent(asked));
    world.wait(seconds(1));
    assert!(world.was_sent(asked));
}

#[test]
fn the_allocators_newest_figures_are_seen_until_the_process_ends() {
    let mut world = World::serving();
    assert_eq!(world.snapshot().processes[0].device_memory, None);
    world.arrive(&["a"]);
    let figures = [(DEVICE_BYTES, 10.0), (RESERVED_DEVICE_BYTES, 30.0), (PEAK_DEVICE_BYTES, 20.0)];
    world.done_with("a", false, figures.map(|(name, bytes)| (name.to_owned(), bytes)).into());
    let memory = Some(DeviceMemory { allocated: 10, reserved: Some(30), peak: Some(20) });
    assert_eq!(world.snapshot().processes[0].device_memory, memory);
    world.arrive(&["b"]);
    world.failed("b", ErrorKind::InferenceError, false);
    assert_eq!(world.snapshot().processes[0].device_memory, memory, "a failed job tells nothing");
    world.die(0, ExitReason::Signal(11));
    assert_eq!(world.snapshot().processes[0].device_memory, None);
}
