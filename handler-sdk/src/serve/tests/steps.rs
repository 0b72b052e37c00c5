//! Handlers that advance several jobs step by step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::serve::Stepped;
use crate::{EXIT_DEVICE_LOST, Running, StepHandler, StepLimits};

/// Counts steps, and fails as its inputs ask.
struct Counting {
    loads: u32,
    /// Steps of this model.
    steps: u64,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct Plan {
    /// Steps until the job is finished; never if absent.
    steps: Option<u64>,
    /// Emits the number of each step.
    #[serde(default)]
    streams: bool,
    /// One if absent.
    cost: Option<u64>,
    fault: Option<Fault>,
    /// The step of the job in which the fault happens, counted from 1; in `admit` if 0.
    #[serde(default)]
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Fault {
    /// This job fails, and no other.
    Job,
    /// The step fails.
    Error,
    /// The step panics.
    Panic,
    /// The step runs out of memory.
    Oom,
    /// The step runs out of memory unless the job is alone.
    OomInCompany,
    /// The device is lost.
    Lost,
    /// The step lasts until this job is stopped.
    UntilStopped,
}

/// What a job has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Seen {
    /// Its first step and its last one, as the model counts.
    first: u64,
    last: u64,
    /// Most jobs in one of its steps.
    company: usize,
    loads: u32,
}

struct Progress {
    plan: Plan,
    taken: u64,
    seen: Option<Seen>,
}

const MAX_RUNNING: u32 = 16;
const MAX_COST: u64 = 100;

impl StepHandler for Counting {
    type Input = Plan;
    type Output = Seen;
    type Chunk = u64;
    type Sequence = Progress;

    fn limits() -> StepLimits {
        StepLimits::running(MAX_RUNNING).cost(MAX_COST)
    }

    fn cost(plan: &Plan) -> u64 {
        plan.cost.unwrap_or(1)
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let loads = env.shared(|| Ok(AtomicU32::new(0)))?.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Self { loads, steps: 0 })
    }

    fn admit(&mut self, plan: Plan, _: &Job<u64>) -> Result<Progress, HandlerError> {
        if let (0, Some(fault)) = (plan.at, plan.fault) {
            fail(fault, 1)?;
        }
        Ok(Progress { plan, taken: 0, seen: None })
    }

    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
        let (company, cost) = (running.len(), running.iter().map(|one| Self::cost(&one.sequence.plan)).sum::<u64>());
        assert!(company as u32 <= MAX_RUNNING && cost <= MAX_COST, "over a limit: {company} jobs, cost {cost}");
        self.steps += 1;
        for one in running.iter_mut() {
            let sequence = &mut one.sequence;
            sequence.taken += 1;
            let first = Seen { first: self.steps, last: self.steps, company, loads: self.loads };
            let seen = sequence.seen.get_or_insert(first);
            (seen.last, seen.company) = (self.steps, seen.company.max(company));
            let (seen, plan) = (seen.clone(), sequence.plan.clone());
            if plan.streams
                && let Err(error) = one.job.emit(self.steps)
            {
                one.fail(error);
                continue;
            }
            match plan.fault.filter(|_| plan.at == one.sequence.taken) {
                Some(Fault::Job) => one.fail("not this one"),
                Some(Fault::UntilStopped) => {
                    while !one.job.is_stopped() {
                        std::thread::yield_now();
                    }
                }
                Some(fault) => fail(fault, company)?,
                None => {}
            }
            if plan.steps == Some(one.sequence.taken) {
                one.finish(seen);
            }
        }
        Ok(())
    }
}

fn fail(fault: Fault, company: usize) -> Result<(), HandlerError> {
    match fault {
        Fault::Panic => panic!("a bad job"),
        Fault::Oom => Err("CUDA out of memory. Tried to allocate 2.00 GiB".into()),
        Fault::OomInCompany if company > 1 => Err("CUDA out of memory".into()),
        Fault::Lost => Err("CUDA error: an illegal memory access was encountered".into()),
        Fault::Job | Fault::Error => Err("a bad job".into()),
        Fault::OomInCompany | Fault::UntilStopped => Ok(()),
    }
}

/// How a job ended, and the chunks that it emitted.
#[derive(Debug)]
struct End {
    result: Result<Seen, ErrorReport>,
    chunks: Vec<u64>,
}

impl End {
    fn error(&self) -> &ErrorReport {
        self.result.as_ref().unwrap_err()
    }

    fn seen(&self) -> &Seen {
        self.result.as_ref().unwrap()
    }
}

impl Worker {
    fn counting() -> Self {
        let mut this = Self::start_program::<Stepped<Counting>>();
        this.order_load(1, "auto", 4);
        this.receive_until(|message| matches!(message, ToSupervisor::Loaded { slot: 0, .. }));
        this
    }

    fn plan(&mut self, slot: u32, job: &str, plan: &Value) {
        self.run_on(slot, job, DEADLINE_MS, &json!({"id": job, "input": plan}));
    }

    /// Starts a job whose first step lasts until it is cancelled, so that the jobs behind it are admitted together.
    fn begin_long_step(&mut self) {
        self.plan(0, "gate", &json!({"fault": "until_stopped", "at": 1}));
        self.receive_until(|message| matches!(message, ToSupervisor::Started { job, .. } if job == "gate"));
    }

    /// Returns once the intake thread has read all jobs: an invalid job behind them fails at once.
    fn all_are_read(&mut self) {
        self.plan(19, "last", &json!({"steps": "x"}));
        assert_eq!(self.step_ends(1)["last"].error().kind, ErrorKind::Validation);
    }

    fn end_long_step(&mut self) {
        self.cancel("gate", 1);
        assert_eq!(self.step_ends(1)["gate"].error().kind, ErrorKind::Cancelled);
    }

    /// Runs jobs that are admitted together.
    fn together(&mut self, plans: &[Value]) -> BTreeMap<String, End> {
        self.begin_long_step();
        for (slot, plan) in (1..).zip(plans) {
            self.plan(slot, &format!("job-{slot:02}"), plan);
        }
        self.all_are_read();
        self.end_long_step();
        self.step_ends(plans.len())
    }

    /// The next jobs that end. Acknowledges chunks, but not those of the job `slow`.
    fn step_ends(&mut self, count: usize) -> BTreeMap<String, End> {
        let (mut ends, mut chunks) = (BTreeMap::new(), BTreeMap::<String, Vec<u64>>::new());
        while ends.len() < count {
            let (message, payload) = self.receive();
            let (job, result) = match message {
                ToSupervisor::Chunk { job, attempt, seq } => {
                    if job != "slow" {
                        self.send(&ToHandler::ChunkAck { job: job.clone(), attempt, seq }, b"");
                    }
                    chunks.entry(job).or_default().push(serde_json::from_slice(&payload).unwrap());
                    continue;
                }
                ToSupervisor::Done { job, .. } => (job, Ok(serde_json::from_slice(&payload).unwrap())),
                ToSupervisor::Failed { job, .. } => (job, Err(serde_json::from_slice(&payload).unwrap())),
                _ => continue,
            };
            let end = End { result, chunks: chunks.remove(&job).unwrap_or_default() };
            assert!(ends.insert(job.clone(), end).is_none(), "{job} ended twice");
        }
        ends
    }
}

#[test]
fn the_manifest_announces_the_running_jobs_and_a_few_that_wait() {
    let mut worker = Worker::start_program::<Stepped<Counting>>();
    assert_eq!((worker.manifest.max_batch_items, worker.manifest.slots(1)), (Some(16), Ok(20)));
    worker.order_load(1, "auto", 4);
    assert!(matches!(worker.receive().0, ToSupervisor::Loaded { slot: 0, .. }));
    worker.send(&ToHandler::Probe { slot: 17 }, b"");
    assert_eq!(worker.receive().0, ToSupervisor::Probed { slot: 17, ok: true });
    worker.plan(20, "a", &json!({"steps": 1}));
    assert_eq!(worker.step_ends(1)["a"].error().kind, ErrorKind::Protocol);
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn sixteen_jobs_stream_in_the_same_steps() {
    let plans: Vec<Value> = (0..16).map(|number| json!({"steps": 10 + number, "streams": true})).collect();
    let mut worker = Worker::counting();
    let ends = worker.together(&plans);
    for (number, end) in (0..).zip(ends.values()) {
        let (chunks, seen) = (&end.chunks, end.seen());
        assert_eq!((chunks.len(), chunks.is_sorted()), (10 + number, true), "{end:?}");
        assert_eq!((seen.first, seen.company), (ends["job-01"].seen().first, 16), "{end:?}");
        assert_eq!((chunks[0], *chunks.last().unwrap()), (seen.first, seen.last));
    }
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn a_place_is_free_after_one_step_and_a_late_job_joins_in_the_next() {
    let mut worker = Worker::counting();
    worker.plan(1, "long", &json!({"cost": 50}));
    worker.receive_until(|message| matches!(message, ToSupervisor::Started { .. }));
    // This one takes the rest of the budget, and the late job needs it.
    worker.plan(2, "gate", &json!({"cost": 50, "fault": "until_stopped", "at": 3, "streams": true}));
    for _ in 0..2 {
        worker.receive_until(|message| matches!(message, ToSupervisor::Chunk { .. }));
    }
    let (_, step) = worker.receive_until(|message| matches!(message, ToSupervisor::Chunk { .. }));
    let step: u64 = serde_json::from_slice(&step).unwrap();
    worker.plan(3, "late", &json!({"cost": 50, "steps": 1}));
    worker.all_are_read();
    worker.cancel("gate", 1);
    let ends = worker.step_ends(2);
    assert_eq!(ends["gate"].error().message, "the job was stopped: it was cancelled (steps taken: 3)");
    assert_eq!(ends["late"].seen().first, step + 1, "the cancel took one step, and the late job took the next");
    worker.cancel("long", 1);
    assert_eq!(worker.step_ends(1)["long"].error().kind, ErrorKind::Cancelled);
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn one_poisoned_job_of_sixteen_fails_alone() {
    for (fault, kind) in [
        (Fault::Job, ErrorKind::InferenceError),
        (Fault::Error, ErrorKind::InferenceError),
        (Fault::Panic, ErrorKind::InferenceError),
        (Fault::Oom, ErrorKind::Oom),
    ] {
        for (bad, at) in [(0, 1), (7, 3), (15, 2), (3, 0)] {
            let mut plans: Vec<Value> = (0..16).map(|_| json!({"steps": 4, "cost": 6})).collect();
            plans[bad]["fault"] = json!(fault);
            plans[bad]["at"] = json!(at);
            let ends = Worker::counting().together(&plans);
            for (index, end) in ends.values().enumerate() {
                match &end.result {
                    Err(report) => assert_eq!((index, report.kind), (bad, kind), "{report:?}"),
                    Ok(_) => assert_ne!(index, bad, "{fault:?} at {at}"),
                }
            }
        }
    }
}

#[test]
fn after_running_out_of_memory_fewer_jobs_run_together() {
    let mut worker = Worker::counting();
    let plans: Vec<Value> =
        (0..8).map(|_| json!({"steps": 2, "cost": 10, "fault": "oom_in_company", "at": 1})).collect();
    let ends = worker.together(&plans);
    assert!(ends.values().all(|end| end.seen().company == 1), "alone each of them fits: {ends:?}");
    let plans: Vec<Value> = (0..8).map(|_| json!({"steps": 1, "cost": 10})).collect();
    let ends = worker.together(&plans);
    assert!(ends.values().all(|end| end.seen().company < 4), "{ends:?}");
}

#[test]
fn a_job_that_has_streamed_fails_with_its_step_and_the_others_run_again() {
    let plans = [
        json!({"steps": 9, "streams": true}),
        json!({"steps": 9}),
        json!({"steps": 9, "fault": "panic", "at": 2}),
        json!({"steps": 9}),
    ];
    let ends = Worker::counting().together(&plans);
    assert!(ends["job-01"].error().message.ends_with(": a bad job"), "{ends:?}");
    assert!(ends["job-03"].error().message.ends_with(": a bad job"), "{ends:?}");
    for job in ["job-02", "job-04"] {
        assert!(ends[job].seen().loads > 1, "on a model that was loaded again: {ends:?}");
    }
}

#[test]
fn a_panic_in_admit_fails_its_job_alone_and_the_model_is_loaded_again_afterwards() {
    let mut worker = Worker::counting();
    let plans =
        [json!({"steps": 5, "streams": true}), json!({"steps": 5, "fault": "panic", "at": 0}), json!({"steps": 5})];
    let ends = worker.together(&plans);
    assert!(ends["job-02"].error().message.ends_with(": a bad job"), "{ends:?}");
    assert_eq!((ends["job-01"].seen().loads, ends["job-03"].seen().loads), (1, 2), "{ends:?}");
}

#[test]
fn a_dear_job_waits_for_room_and_is_not_overtaken() {
    let mut worker = Worker::counting();
    let plans = [
        json!({"steps": 3, "cost": 60}),
        json!({"steps": 9, "cost": 10}),
        json!({"steps": 2, "cost": 89}),
        json!({"steps": 1, "cost": 1}),
    ];
    let ends = worker.together(&plans);
    let joined = |job: &str| ends[job].seen().first - ends["job-01"].seen().first;
    assert_eq!((joined("job-02"), joined("job-03"), joined("job-04")), (0, 3, 3), "{ends:?}");
    worker.plan(1, "a", &json!({"steps": 1, "cost": 101}));
    assert_eq!(
        worker.step_ends(1)["a"].error().message,
        "input: the cost of this job is 101, but all running jobs together may have at most 100"
    );
}

#[test]
fn a_sequence_that_never_ends_fails_at_its_deadline_and_the_others_go_on() {
    let mut worker = Worker::counting();
    worker.run_on(0, "endless", 60, &json!({"id": "endless", "input": {}}));
    let report = worker.step_ends(1)["endless"].error().clone();
    assert_eq!(report.kind, ErrorKind::Timeout);
    assert!(report.message.starts_with("the job was stopped: its deadline has passed (steps taken: "), "{report:?}");
    worker.plan(1, "a", &json!({"steps": 3}));
    assert_eq!(worker.step_ends(1)["a"].seen().loads, 1);
}

#[test]
fn a_job_with_a_slow_reader_sits_out_and_the_others_go_on() {
    let mut worker = Worker::counting();
    worker.plan(0, "slow", &json!({"steps": 6, "streams": true}));
    worker.plan(1, "a", &json!({"steps": 100}));
    let mut ends = worker.step_ends(1);
    assert!(ends.remove("a").unwrap().result.is_ok());
    // Nothing can step now: an acknowledgement wakes the model, a new job too, and a cancel.
    worker.send(&ToHandler::ChunkAck { job: "slow".into(), attempt: 1, seq: 1 }, b"");
    worker.receive_until(|message| matches!(message, ToSupervisor::Chunk { seq: 5, .. }));
    worker.plan(1, "b", &json!({"steps": 2}));
    assert!(worker.step_ends(1)["b"].result.is_ok());
    worker.cancel("slow", 1);
    assert_eq!(worker.step_ends(1)["slow"].error().message, "the job was stopped: it was cancelled (steps taken: 5)");
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn waiting_jobs_run_before_a_shutdown_ends_the_process() {
    let mut worker = Worker::counting();
    worker.begin_long_step();
    worker.plan(1, "a", &json!({"steps": 2, "cost": 100}));
    worker.send(&ToHandler::Shutdown, b"");
    worker.end_long_step();
    assert!(worker.step_ends(1)["a"].result.is_ok());
    assert_eq!(worker.handler.join().unwrap(), 0);
}

#[test]
fn a_lost_device_ends_the_process_so_that_the_worker_runs_each_job_alone() {
    let mut worker = Worker::counting();
    worker.begin_long_step();
    worker.plan(1, "a", &json!({}));
    worker.plan(2, "b", &json!({"fault": "lost", "at": 1}));
    worker.all_are_read();
    worker.end_long_step();
    assert_eq!(worker.handler.join().unwrap(), EXIT_DEVICE_LOST);
}

/// A job of a random schedule.
#[derive(Clone, Debug)]
struct Arrival {
    plan: Plan,
    cancelled: bool,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let fault = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Fault::Job)),
        1 => Just(Some(Fault::Error)),
        1 => Just(Some(Fault::Panic)),
        1 => Just(Some(Fault::Oom)),
        1 => Just(Some(Fault::OomInCompany)),
    ];
    (1u64..8, any::<bool>(), 1u64..60, fault, 0u64..4, prop::bool::weighted(0.2)).prop_map(
        |(steps, streams, cost, fault, at, cancelled)| {
            // An endless job that is cancelled must be found, wherever it is.
            let steps = (!cancelled).then_some(steps);
            Arrival { plan: Plan { steps, streams, cost: Some(cost), fault, at }, cancelled }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The handler itself asserts that no step is over a limit: such a panic would fail jobs without a fault.
    #[test]
    fn every_job_ends_once_and_fails_only_for_a_reason(arrivals in prop::collection::vec(arrival(), 1..20)) {
        let mut worker = Worker::counting();
        for (slot, arrival) in (0..).zip(&arrivals) {
            worker.plan(slot, &format!("job-{slot:02}"), &json!(arrival.plan));
        }
        for (slot, _) in arrivals.iter().enumerate().filter(|(_, arrival)| arrival.cancelled) {
            worker.cancel(&format!("job-{slot:02}"), 1);
        }
        let ends = worker.step_ends(arrivals.len());
        let somebody_fails = arrivals.iter().any(|arrival| arrival.plan.fault.is_some());
        for (Arrival { plan, cancelled }, end) in arrivals.iter().zip(ends.values()) {
            match &end.result {
                Ok(seen) => {
                    let expected = if plan.streams { plan.steps.unwrap() as usize } else { 0 };
                    prop_assert_eq!((end.chunks.len(), end.chunks.is_sorted()), (expected, true));
                    prop_assert!(!cancelled && seen.last - seen.first + 1 >= plan.steps.unwrap());
                }
                Err(report) if *cancelled => {
                    prop_assert!(report.kind == ErrorKind::Cancelled || somebody_fails, "{:?}", report);
                }
                Err(report) => {
                    let beside_a_failure = plan.streams && somebody_fails;
                    prop_assert!(plan.fault.is_some() || beside_a_failure, "{:?}", report);
                }
            }
        }
        prop_assert_eq!(worker.shut_down(), 0);
    }
}

#[test]
fn steps_are_reported_when_the_last_job_has_left() {
    let mut worker = Worker::reporting::<Stepped<Counting>>();
    worker.plan(0, "a", &json!({"steps": 5}));
    let (message, _) = worker.receive_until(|message| matches!(message, ToSupervisor::Steps(_)));
    let ToSupervisor::Steps(steps) = message else { panic!("{message:?}") };
    assert_eq!((steps.steps, steps.advanced, steps.cost), (5, 5, 0));
    assert_eq!((steps.limits.budget, steps.limits.max_cost), (Some(MAX_COST), Some(MAX_COST)));
}
