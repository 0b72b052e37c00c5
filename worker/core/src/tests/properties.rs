//! Random sequences of events. After each one every invariant of `invariants.rs` is checked; at the end the worker is told
//! to stop and must do so, with or without the world's help.

use std::time::Duration;

use proptest::prelude::*;
use runpod_handler_protocol::{CheckReport, ErrorKind, PROTOCOL_VERSION, ToSupervisor};

use super::world::{World, taken};
use crate::{
    DeliveryEvent, DrainCause, Event, Exit, ExitReason, GpuSlowdown, JobId, OnRefresh, Policy, PollAnswer,
    ProcessEvent, RecycleLimits, SlowdownReason, TakenJob, WorkerState,
};

/// One thing that may happen; numbers choose among what is possible at that moment.
#[derive(Clone, Debug)]
enum Action {
    Jobs(Vec<u8>),
    BrokenJob(u8),
    NoJob,
    RateLimited,
    PollFailed,
    PollAborted,
    Stop(u8),
    /// A job that has ended here is handed out again, perhaps after a late stop.
    Retry(usize, bool),
    Spawned(usize),
    SpawnFailed(usize, bool),
    Hello(usize, bool),
    WrongHello(usize),
    Loaded(usize, u32),
    LoadFailed(usize),
    /// Every process that was started comes to serve, as an async handler or as another one.
    BringUp(bool),
    /// Every process that was killed exits.
    Reap,
    Started(usize),
    Chunk(usize),
    Done(usize),
    Failed(usize, u8, bool),
    LateDone(usize, u8),
    BadFrame(usize),
    Oversize(usize),
    Exited(usize, ExitReason),
    Pong(usize),
    Concurrency(usize, u32),
    Checked(usize, bool),
    Probed(usize, u32, bool),
    Memory(usize, u64),
    DoneWithRefresh(usize),
    Delivered(usize, bool),
    ChunkDelivered(u8),
    OutboxFull(bool),
    DeliveryBehind(bool),
    GpuSlowdown(bool),
    Wait(u32),
    Drain,
    Unhealthy,
    Abort,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![24 => usual(), 1 => rare()]
}

/// What happens all the time.
fn usual() -> impl Strategy<Value = Action> {
    use Action::*;
    let process = 0usize..2;
    prop_oneof![
        12 => prop::collection::vec(0u8..12, 1..4).prop_map(Jobs),
        2 => Just(NoJob),
        1 => Just(PollAborted),
        2 => (0u8..12).prop_map(Stop),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, late_stop)| Retry(which, late_stop)),
        8 => any::<bool>().prop_map(BringUp),
        4 => Just(Reap),
        4 => (0usize..4).prop_map(Started),
        3 => (0usize..4).prop_map(Chunk),
        8 => (0usize..4).prop_map(Done),
        4 => (0usize..4, 0u8..5, any::<bool>()).prop_map(|(run, kind, reloading)| Failed(run, kind, reloading)),
        2 => (process.clone(), 0u32..3).prop_map(|(index, slot)| Loaded(index, slot)),
        1 => (process.clone(), 0u8..12).prop_map(|(index, job)| LateDone(index, job)),
        2 => (process.clone(), exit_reason()).prop_map(|(index, status)| Exited(index, status)),
        3 => (process.clone(), 0u32..3, prop::bool::weighted(0.8)).prop_map(|(index, slot, ok)| Probed(index, slot, ok)),
        2 => (process.clone(), 0u64..200).prop_map(|(index, bytes)| Memory(index, bytes)),
        4 => process.clone().prop_map(Pong),
        2 => (process, 1u32..6).prop_map(|(index, jobs)| Concurrency(index, jobs)),
        8 => (0usize..4, prop::bool::weighted(0.9)).prop_map(|(which, accepted)| Delivered(which, accepted)),
        2 => (0u8..12).prop_map(ChunkDelivered),
        1 => prop::bool::weighted(0.3).prop_map(DeliveryBehind),
        1 => any::<bool>().prop_map(GpuSlowdown),
        6 => (0u32..20_000).prop_map(Wait),
    ]
}

/// What breaks or ends something.
fn rare() -> impl Strategy<Value = Action> {
    use Action::*;
    let process = 0usize..2;
    prop_oneof![
        (0u8..12).prop_map(BrokenJob),
        Just(RateLimited),
        Just(PollFailed),
        process.clone().prop_map(Spawned),
        (process.clone(), any::<bool>()).prop_map(|(index, permanent)| SpawnFailed(index, permanent && index == 1)),
        (process.clone(), any::<bool>()).prop_map(|(index, idempotent)| Hello(index, idempotent)),
        process.clone().prop_map(WrongHello),
        process.clone().prop_map(LoadFailed),
        process.clone().prop_map(BadFrame),
        (0usize..4).prop_map(Oversize),
        (process, prop::bool::weighted(0.9)).prop_map(|(index, ok)| Checked(index, ok)),
        (0usize..4).prop_map(DoneWithRefresh),
        any::<bool>().prop_map(OutboxFull),
        Just(OutboxFull(false)),
        (600_000u32..700_000).prop_map(Wait),
        Just(Drain),
        Just(Unhealthy),
        Just(Abort),
    ]
}

fn exit_reason() -> impl Strategy<Value = ExitReason> {
    use ExitReason::{Code, Signal};
    prop::sample::select(vec![Signal(11), Signal(11), Code(1), Code(1), Signal(15), Code(143)])
}

fn name(job: u8) -> String {
    format!("job-{job}")
}

fn kind(index: u8) -> ErrorKind {
    [ErrorKind::InferenceError, ErrorKind::Oom, ErrorKind::DeviceLost, ErrorKind::Cancelled, ErrorKind::Validation]
        [usize::from(index)]
}

fn bring_up_all(world: &mut World, is_async: bool) {
    for index in 0..world.alive.len() {
        // A second hello would end the process.
        if world.snapshot().processes[index].phase == "spawning" {
            if is_async { world.bring_up_async(index, 3) } else { world.bring_up(index) }
        }
    }
}

fn is_async(world: &World, index: usize) -> bool {
    let manifest = world.worker.processes[index].manifest.as_ref();
    manifest.is_some_and(|manifest| manifest.max_concurrency.is_some())
}

fn reap_all(world: &mut World) {
    for index in 0..world.alive.len() {
        if world.killed[index] {
            world.die(index, ExitReason::Signal(9));
        }
    }
}

fn act(world: &mut World, action: Action) {
    let run = |world: &World, index: usize| world.runs.get(index).map(|run| run.job.clone());
    match action {
        Action::Jobs(ids) if world.poll.is_some() => {
            let jobs = ids.iter().map(|id| taken(&name(*id))).collect();
            world.feed(Event::Poll(PollAnswer::Jobs(jobs)));
        }
        Action::BrokenJob(id) if world.poll.is_some() => {
            let job = TakenJob { body: Err("not an object".into()), ..taken(&name(id)) };
            world.feed(Event::Poll(PollAnswer::Jobs(vec![job])));
        }
        Action::NoJob if world.poll.is_some() => world.feed(Event::Poll(PollAnswer::Empty)),
        Action::RateLimited if world.poll.is_some() => {
            world.feed(Event::Poll(PollAnswer::RateLimited { retry_after: Duration::from_secs(5) }));
        }
        Action::PollFailed if world.poll.is_some() => {
            world.feed(Event::Poll(PollAnswer::Failed {
                retry_after: Duration::from_secs(1),
                reason: "the queue failed".into(),
            }));
        }
        Action::PollAborted if world.poll.is_some() => world.feed(Event::Poll(PollAnswer::Aborted)),
        Action::Stop(job) => world.stop(&name(job)),
        Action::Retry(which, late_stop) if world.poll.is_some() && !world.ledger.ended.is_empty() => {
            let job = world.ledger.ended.iter().nth(which % world.ledger.ended.len()).cloned();
            let Some(job) = job else { return };
            if late_stop {
                world.stop(job.as_str());
            }
            if world.poll.is_some() {
                world.arrive(&[job.as_str()]);
            }
        }
        Action::Spawned(index) => world.process(index, ProcessEvent::Spawned { pid: 7 }),
        Action::SpawnFailed(index, permanent)
            if !world.killed[index] && world.snapshot().processes[index].pid.is_none() =>
        {
            world.process(index, ProcessEvent::SpawnFailed { reason: "no such file".into(), permanent });
        }
        Action::Hello(index, idempotent) => world.hello(index, PROTOCOL_VERSION, idempotent),
        Action::WrongHello(index) => world.hello(index, 99, false),
        Action::Loaded(index, slot) => world.loaded(index, slot),
        Action::LoadFailed(index) => world.say(index, ToSupervisor::LoadFailed { slot: 0 }, "{}".into()),
        Action::BringUp(is_async) => bring_up_all(world, is_async),
        Action::Reap => reap_all(world),
        Action::Started(index) => {
            if let Some(job) = run(world, index) {
                world.started(&job);
            }
        }
        Action::Chunk(index) => {
            if let Some(job) = run(world, index) {
                world.chunk(&job);
            }
        }
        Action::Done(index) => {
            if let Some(job) = run(world, index) {
                world.done(&job);
            }
        }
        Action::Failed(index, error, reloading) => {
            if let Some(job) = run(world, index) {
                world.failed(&job, kind(error), reloading);
            }
        }
        Action::LateDone(index, job) => {
            let message =
                ToSupervisor::Done { job: name(job), attempt: 77, refresh: false, records: Default::default() };
            world.say(index, message, "1".into());
        }
        Action::BadFrame(index) => world.process(index, ProcessEvent::BadFrame { reason: "garbage".into() }),
        Action::Oversize(index) => {
            if let Some(known) = world.runs.get(index).cloned() {
                world.runs.retain(|run| *run != known);
                let (job, attempt) = (known.job, known.attempt);
                let message = ToSupervisor::Done { job, attempt, refresh: false, records: Default::default() };
                world.process(known.process.0, ProcessEvent::Oversize { message, payload_len: 1 << 30 });
            }
        }
        Action::Exited(index, status) => {
            world.die(index, status);
        }
        Action::Concurrency(index, jobs) if is_async(world, index) => world.concurrency(index, jobs),
        Action::Pong(index) => world.say(index, ToSupervisor::Pong { seq: 1 }, "".into()),
        Action::Checked(index, ok) => {
            let check = if ok { CheckReport::ok("test", "") } else { CheckReport::failed("test", "told to", "") };
            world.say(index, ToSupervisor::Checked, serde_json::to_vec(&[check]).unwrap().into());
        }
        Action::Probed(index, slot, ok) => world.say(index, ToSupervisor::Probed { slot, ok }, "".into()),
        Action::Memory(index, host_bytes) => world.process(index, ProcessEvent::Memory { host_bytes }),
        Action::DoneWithRefresh(index) => {
            if let Some(job) = run(world, index) {
                world.done_with(&job, true, Default::default());
            }
        }
        Action::Delivered(which, accepted) if which < world.finals.len() => {
            let (job, _) = world.finals.remove(which);
            world.feed(Event::Delivery(DeliveryEvent::Final { job, accepted }));
        }
        Action::ChunkDelivered(job) => {
            let job = JobId::from(name(job));
            world.feed(Event::Delivery(DeliveryEvent::Chunk { job, attempt: 1, seq: 1 }));
        }
        Action::DeliveryBehind(behind) => world.feed(Event::Delivery(DeliveryEvent::Behind(behind))),
        Action::OutboxFull(full) => world.feed(Event::Delivery(DeliveryEvent::Full(full))),
        Action::GpuSlowdown(hot) => {
            let gpu = GpuSlowdown { gpu: 0, reasons: vec![SlowdownReason::HwThermal] };
            world.feed(Event::GpuSlowdowns(hot.then_some(gpu).into_iter().collect()));
        }
        Action::Wait(millis) => world.wait(Duration::from_millis(u64::from(millis))),
        Action::Drain => world.drain(),
        Action::Unhealthy => {
            world.feed(Event::Drain(DrainCause::Unhealthy { check: "test".into(), reason: "told to".into() }));
        }
        Action::Abort => world.feed(Event::Abort),
        // Not possible at this moment.
        _ => {}
    }
}

/// Limits of upkeep, low enough to be met.
fn upkeep() -> impl Strategy<Value = Policy> {
    let limits = (prop::option::of(1u64..6), prop::option::of(50u64..200), prop::option::of(5u64..60));
    let recycle = limits.prop_map(|(max_jobs, max_rss, age)| RecycleLimits {
        max_jobs,
        max_rss,
        max_vram: None,
        max_age: age.map(Duration::from_secs),
    });
    (recycle, prop::bool::weighted(0.1), any::<bool>(), any::<bool>()).prop_map(
        |(recycle, refresh_worker, exits, probes)| Policy {
            crash_limit: 20,
            start_attempts: 6,
            recycle,
            refresh_worker,
            on_refresh: if exits { OnRefresh::Exit } else { OnRefresh::RestartHandler },
            probe_interval: if probes { Duration::from_secs(3) } else { Duration::ZERO },
            ..Policy::default()
        },
    )
}

proptest! {
    #[test]
    fn invariants_hold_and_the_worker_stops(
        processes in 1usize..3,
        slots in 1u32..4,
        prefetch in 0usize..3,
        actions in prop::collection::vec(action(), 0..120),
        serving in prop::bool::weighted(0.8),
        is_async in any::<bool>(),
        helpful in any::<bool>(),
        upkeep in upkeep(),
        leftovers in prop::collection::btree_set(0u8..12, 0..3),
    ) {
        let on_gpu = upkeep.probe_interval > Duration::ZERO;
        let mut world = World::new(Policy { processes, slots, prefetch, ..upkeep });
        world.device = if on_gpu { "cuda:0" } else { "cpu" };
        world.leave_undelivered(&leftovers.into_iter().map(name).collect::<Vec<_>>());
        if serving {
            bring_up_all(&mut world, is_async);
            while !world.finals.is_empty() {
                world.deliver(0);
            }
        }
        for action in actions {
            let in_range = match &action {
                Action::Spawned(index) | Action::SpawnFailed(index, _) | Action::Hello(index, _)
                | Action::WrongHello(index) | Action::Loaded(index, _) | Action::LoadFailed(index)
                | Action::LateDone(index, _) | Action::BadFrame(index)
                | Action::Exited(index, _) | Action::Pong(index) | Action::Concurrency(index, _) | Action::Checked(index, _)
                | Action::Probed(index, ..) | Action::Memory(index, _) => *index < processes,
                _ => true,
            };
            if in_range {
                act(&mut world, action);
            }
        }

        let was_working = !matches!(world.snapshot().state, WorkerState::Draining | WorkerState::Unhealthy);
        world.drain();
        for _ in 0..2000 {
            if world.exit.is_some() {
                break;
            }
            if helpful {
                if world.poll.is_some() {
                    world.feed(Event::Poll(PollAnswer::Aborted));
                }
                while !world.finals.is_empty() {
                    world.deliver(0);
                }
                reap_all(&mut world);
            }
            world.wait(Duration::from_millis(400));
        }
        prop_assert!(world.exit.is_some(), "still there: {:?}", world.snapshot());
        let snapshot = world.snapshot();
        prop_assert_eq!(snapshot.jobs.in_progress + snapshot.jobs.in_queue, 0);
        // A flush that began while nobody helped may have run out of time.
        if helpful && was_working {
            prop_assert!(snapshot.held.is_empty(), "left behind: {:?}", snapshot.held);
        }
    }
}

#[test]
fn events_of_a_process_that_has_exited_are_ignored() {
    let mut world = World::serving();
    world.arrive(&["a"]);
    let incarnation = world.alive[0].unwrap();
    world.die(0, ExitReason::Signal(11));
    let before = world.snapshot().jobs;
    let exit = Exit { status: ExitReason::Signal(11), host_oom: false, last_lines: vec![] };
    world.feed(Event::Process { id: crate::ProcessId(0), incarnation, event: ProcessEvent::Exited(exit) });
    assert_eq!(world.snapshot().jobs, before);
}
