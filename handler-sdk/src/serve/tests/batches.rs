//! Handlers that run several jobs at once.

use std::collections::BTreeMap;

use proptest::prelude::*;
use runpod_handler_protocol::{BatchReport, ClosedBy, LimitsNow};

use super::*;
use crate::serve::Batched;
use crate::{BatchHandler, BatchItem, BatchLimits, EXIT_DEVICE_LOST};

/// Doubles numbers, and fails as its inputs ask.
struct Doubling;

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
struct Number {
    #[schemars(range(max = 1000))]
    value: u32,
    #[serde(default)]
    key: String,
    /// One if absent.
    cost: Option<u64>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Fault {
    /// This item fails, and no other.
    Item,
    /// The batch fails.
    Batch,
    /// The batch panics.
    Panic,
    /// The batch runs out of memory.
    Oom,
    /// The batch runs out of memory unless the item is alone.
    OomInCompany,
    /// This item streams before the batch panics.
    StreamAndPanic,
    /// The batch returns a result too few.
    TooFew,
    /// The batch runs until this item is stopped.
    UntilStopped,
}

/// The double of a number, and the jobs of its batch.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Double {
    value: u32,
    jobs: Vec<String>,
}

impl BatchHandler for Doubling {
    type Input = Number;
    type Output = Double;
    type Chunk = u32;

    fn limits() -> BatchLimits {
        BatchLimits::items(16).cost(100)
    }

    fn cost(input: &Number) -> u64 {
        input.cost.unwrap_or(1)
    }

    fn key(input: &Number) -> String {
        input.key.clone()
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.report_device("cpu");
        Ok(Self)
    }

    fn run_batch(
        &mut self,
        items: &[BatchItem<Number, u32>],
    ) -> Result<Vec<Result<Double, HandlerError>>, HandlerError> {
        assert!(items.iter().map(|item| Self::cost(&item.input)).sum::<u64>() <= 100, "over the cost limit");
        let jobs: Vec<String> = items.iter().map(|item| item.job.id().to_owned()).collect();
        for item in items {
            match item.input.fault {
                Some(Fault::Batch) => return Err("a bad item".into()),
                Some(Fault::Panic) => panic!("a bad item"),
                Some(Fault::Oom) => return Err("CUDA out of memory. Tried to allocate 2.00 GiB".into()),
                Some(Fault::OomInCompany) if items.len() > 1 => return Err("CUDA out of memory".into()),
                Some(Fault::StreamAndPanic) => {
                    item.job.emit(1)?;
                    panic!("after a chunk");
                }
                Some(Fault::TooFew) => return Ok(Vec::new()),
                Some(Fault::UntilStopped) => {
                    while !item.job.is_stopped() {
                        std::thread::yield_now();
                    }
                }
                _ => {}
            }
        }
        let result = |item: &BatchItem<Number, u32>| match item.input.fault {
            Some(Fault::Item) => Err(HandlerError::validation("input.value: not this one")),
            Some(Fault::UntilStopped) => Err(item.job.stop_point().unwrap_err().into()),
            _ => Ok(Double { value: 2 * item.input.value, jobs: jobs.clone() }),
        };
        Ok(items.iter().map(result).collect())
    }
}

/// The final message of a job.
type End = Result<Double, ErrorReport>;

impl Worker {
    fn doubling() -> Self {
        let mut this = Self::start_program::<Batched<Doubling>>();
        this.order_load(1, "auto", 4);
        this.receive_until(|message| matches!(message, ToSupervisor::Loaded { slot: 0, .. }));
        this
    }

    /// Occupies the model until the job `gate` is cancelled, so that the jobs behind it form a batch.
    fn close_gate(&mut self) {
        self.number(0, "gate", &json!({"value": 0, "key": "gate", "fault": "until_stopped"}));
        self.receive_until(|message| matches!(message, ToSupervisor::Started { job, .. } if job == "gate"));
    }

    fn open_gate(&mut self) {
        self.cancel("gate", 1);
        let ends = self.ends(1);
        assert_eq!(ends["gate"].as_ref().unwrap_err().kind, ErrorKind::Cancelled);
    }

    fn number(&mut self, slot: u32, job: &str, input: &Value) {
        self.run_on(slot, job, DEADLINE_MS, &json!({"id": job, "input": input}));
    }

    /// The next final messages, by job.
    fn ends(&mut self, count: usize) -> BTreeMap<String, End> {
        let mut ends = BTreeMap::new();
        for _ in 0..count {
            let (message, payload) = self.receive_until(is_final);
            let (job, end) = match message {
                ToSupervisor::Done { job, records, .. } => {
                    let double: Double = serde_json::from_slice(&payload).unwrap();
                    assert_eq!(records["batch_items"], double.jobs.len() as f64);
                    (job, Ok(double))
                }
                ToSupervisor::Failed { job, reloading, .. } => {
                    assert!(!reloading);
                    (job, Err(serde_json::from_slice(&payload).unwrap()))
                }
                other => panic!("unexpected {other:?}"),
            };
            assert!(ends.insert(job.clone(), end).is_none(), "{job} ended twice");
        }
        ends
    }

    /// Runs jobs with these inputs behind a closed gate.
    fn batch(&mut self, inputs: &[Value]) -> BTreeMap<String, End> {
        self.close_gate();
        for (slot, input) in (1..).zip(inputs) {
            self.number(slot, &format!("job-{slot:02}"), input);
        }
        // Until the intake thread has read them all: an invalid job behind them fails at once.
        self.number(31, "last", &json!({"value": "x"}));
        assert!(self.ends(1)["last"].is_err());
        self.open_gate();
        self.ends(inputs.len())
    }
}

#[test]
fn the_manifest_announces_the_batch_and_a_model_loads_once() {
    let mut worker = Worker::start_program::<Batched<Doubling>>();
    assert_eq!((worker.manifest.max_batch_items, worker.manifest.slots(1)), (Some(16), Ok(32)));
    worker.order_load(1, "auto", 4);
    assert!(matches!(worker.receive().0, ToSupervisor::Loaded { slot: 0, .. }));
    worker.send(&ToHandler::Probe { slot: 17 }, b"");
    assert_eq!(worker.receive().0, ToSupervisor::Probed { slot: 17, ok: true });
    worker.number(32, "a", &json!({"value": 1}));
    assert_eq!(worker.ends(1)["a"].as_ref().unwrap_err().kind, ErrorKind::Protocol);
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn jobs_that_arrive_while_a_batch_runs_form_the_next_one() {
    let inputs: Vec<Value> = (1..=5).map(|value| json!({"value": value})).collect();
    let ends = Worker::doubling().batch(&inputs);
    for (value, end) in (1..).zip(ends.values()) {
        let double = end.as_ref().unwrap();
        assert_eq!((double.value, double.jobs.len()), (2 * value, 5), "{double:?}");
        assert!(double.jobs.is_sorted(), "in the order of arrival: {double:?}");
    }
}

#[test]
fn one_bad_item_of_sixteen_fails_alone() {
    for (fault, kind) in [
        (Fault::Item, ErrorKind::Validation),
        (Fault::Batch, ErrorKind::InferenceError),
        (Fault::Panic, ErrorKind::InferenceError),
        (Fault::Oom, ErrorKind::Oom),
    ] {
        for bad in [0, 7, 15] {
            let mut inputs: Vec<Value> = (0..16).map(|value| json!({"value": value})).collect();
            inputs[bad]["fault"] = json!(fault);
            let ends = Worker::doubling().batch(&inputs);
            for (index, end) in ends.values().enumerate() {
                match end {
                    Err(report) => assert_eq!((index, report.kind), (bad, kind), "{report:?}"),
                    Ok(double) => assert_eq!((double.value, index == bad), (2 * index as u32, false)),
                }
            }
        }
    }
}

#[test]
fn a_model_that_is_loaded_again_after_a_panic_reports_both() {
    let mut worker = Worker::doubling();
    worker.number(0, "a", &json!({"value": 1, "fault": "panic"}));
    assert!(worker.ends(1)["a"].is_err());
    assert!(matches!(worker.receive().0, ToSupervisor::Loading { slot: 0, .. }));
    assert!(matches!(worker.receive().0, ToSupervisor::Loaded { slot: 0, .. }));
}

#[test]
fn after_running_out_of_memory_batches_are_smaller() {
    let mut worker = Worker::doubling();
    let inputs: Vec<Value> =
        (0..8).map(|value| json!({"value": value, "cost": 10, "fault": "oom_in_company"})).collect();
    assert!(worker.batch(&inputs).values().all(Result::is_ok), "alone each of them fits");
    // The budget fell from 100 to 80, 40, 20 and then 10.
    let inputs: Vec<Value> = (0..8).map(|value| json!({"value": value, "cost": 10})).collect();
    let ends = worker.batch(&inputs);
    let sizes: Vec<usize> = ends.values().map(|end| end.as_ref().unwrap().jobs.len()).collect();
    assert!(sizes.iter().all(|size| *size < 4), "{sizes:?}");
}

#[test]
fn jobs_with_different_keys_never_share_a_batch() {
    let inputs: Vec<Value> = (0..8).map(|value| json!({"value": value, "key": (value % 2).to_string()})).collect();
    for (index, end) in Worker::doubling().batch(&inputs).values().enumerate() {
        let expected: Vec<String> =
            (0..8).filter(|other| other % 2 == index % 2).map(|other| format!("job-{:02}", other + 1)).collect();
        assert_eq!(end.as_ref().unwrap().jobs, expected);
    }
}

#[test]
fn an_invalid_or_too_costly_job_fails_while_the_model_is_busy() {
    let mut worker = Worker::doubling();
    worker.close_gate();
    worker.number(1, "a", &json!({"value": 1001}));
    worker.number(2, "b", &json!({"value": 1, "cost": 101}));
    let ends = worker.ends(2);
    let message = |job: &str| ends[job].as_ref().unwrap_err().message.clone();
    assert_eq!(message("a"), "input.value: must be at most 1000");
    assert_eq!(message("b"), "input: the cost of this job is 101, but a batch may have at most 100");
    worker.open_gate();
}

#[test]
fn a_waiting_job_that_is_cancelled_fails_at_once() {
    let mut worker = Worker::doubling();
    worker.close_gate();
    worker.number(1, "a", &json!({"value": 1}));
    worker.number(2, "b", &json!({"value": 2}));
    worker.cancel("a", 1);
    let report = worker.ends(1).remove("a").unwrap().unwrap_err();
    assert_eq!(
        (report.kind, report.message.as_str()),
        (ErrorKind::Cancelled, "the job was stopped: it was cancelled (before it ran)")
    );
    worker.open_gate();
    assert_eq!(worker.ends(1)["b"], Ok(Double { value: 4, jobs: vec!["b".to_owned()] }));
}

#[test]
fn a_job_that_has_streamed_does_not_run_again() {
    let inputs = [json!({"value": 1, "fault": "stream_and_panic"}), json!({"value": 2}), json!({"value": 3})];
    let ends = Worker::doubling().batch(&inputs);
    let report = ends["job-01"].as_ref().unwrap_err();
    assert!(report.message.ends_with(": after a chunk"), "{report:?}");
    assert!(ends["job-02"].is_ok() && ends["job-03"].is_ok(), "{ends:?}");
}

#[test]
fn a_batch_with_too_few_results_fails_as_a_whole() {
    let ends = Worker::doubling().batch(&[json!({"value": 1}), json!({"value": 2, "fault": "too_few"})]);
    for end in ends.values() {
        let report = end.as_ref().unwrap_err();
        assert_eq!(
            (report.kind, report.message.as_str()),
            (ErrorKind::Protocol, "run_batch returned 0 results for 2 jobs")
        );
    }
}

#[test]
fn waiting_jobs_run_before_a_shutdown_ends_the_process() {
    let mut worker = Worker::doubling();
    worker.close_gate();
    worker.number(1, "a", &json!({"value": 1}));
    worker.send(&ToHandler::Shutdown, b"");
    worker.open_gate();
    assert!(worker.ends(1)["a"].is_ok());
    assert_eq!(worker.handler.join().unwrap(), 0);
}

/// Fails with the message of a lost device, and has not reported which device it uses.
struct Losing;

impl BatchHandler for Losing {
    type Input = String;
    type Output = String;
    type Chunk = NoChunks;

    fn limits() -> BatchLimits {
        BatchLimits::items(2).wait(MESSAGE_TIMEOUT)
    }

    fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self)
    }

    fn run_batch(
        &mut self,
        _: &[BatchItem<String, NoChunks>],
    ) -> Result<Vec<Result<String, HandlerError>>, HandlerError> {
        Err("CUDA error: an illegal memory access was encountered".into())
    }
}

#[test]
fn a_lost_device_ends_the_process_so_that_the_worker_runs_each_job_alone() {
    let mut worker = Worker::start_program::<Batched<Losing>>();
    worker.order_load(1, "auto", 4);
    worker.receive_until(|message| matches!(message, ToSupervisor::Loaded { .. }));
    worker.number(0, "a", &json!("x"));
    worker.number(1, "b", &json!("x"));
    assert_eq!(worker.handler.join().unwrap(), EXIT_DEVICE_LOST);
}

/// A job of a random schedule.
#[derive(Clone, Debug)]
struct Arrival {
    number: Number,
    cancelled: bool,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let fault = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fault::Item)),
        1 => Just(Some(Fault::Batch)),
        1 => Just(Some(Fault::Panic)),
        1 => Just(Some(Fault::Oom)),
    ];
    (0u32..1000, 0u8..3, 1u64..60, fault, prop::bool::weighted(0.2)).prop_map(|(value, key, cost, fault, cancelled)| {
        Arrival { number: Number { value, key: key.to_string(), cost: Some(cost), fault }, cancelled }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_job_gets_its_own_result_and_only_bad_ones_fail(arrivals in prop::collection::vec(arrival(), 1..30)) {
        let mut worker = Worker::doubling();
        for (slot, arrival) in (0..).zip(&arrivals) {
            worker.number(slot, &format!("job-{slot:02}"), &json!(arrival.number));
            if arrival.cancelled {
                worker.cancel(&format!("job-{slot:02}"), 1);
            }
        }
        let ends = worker.ends(arrivals.len());
        for (Arrival { number, cancelled }, end) in arrivals.iter().zip(ends.values()) {
            match (end, number.fault) {
                (Ok(double), fault) => {
                    prop_assert_eq!((double.value, fault), (2 * number.value, None));
                }
                (Err(report), _) if *cancelled => prop_assert_eq!(report.kind == ErrorKind::Cancelled || number.fault.is_some(), true),
                (Err(report), fault) => prop_assert!(fault.is_some(), "{:?}", report),
            }
        }
        prop_assert_eq!(worker.shut_down(), 0);
    }
}

#[test]
fn a_batch_is_reported_with_its_reason_and_the_budget() {
    let mut worker = Worker::reporting::<Batched<Doubling>>();
    let report = |worker: &mut Worker| {
        let (message, _) = worker.receive_until(|message| matches!(message, ToSupervisor::Batch(_)));
        let ToSupervisor::Batch(batch) = message else { panic!("{message:?}") };
        batch
    };
    let limits = LimitsNow { budget: Some(100), max_cost: Some(100), max_wait_ms: None };
    worker.number(0, "a", &json!({"value": 1, "fault": "oom", "cost": 80}));
    let batch = BatchReport { model: 0, jobs: 1, cost: 80, closed_by: ClosedBy::Idle, limits };
    assert_eq!(report(&mut worker), batch);
    worker.number(0, "b", &json!({"value": 1, "cost": 60}));
    let limits = LimitsNow { budget: Some(40), ..limits };
    assert_eq!(report(&mut worker), BatchReport { cost: 60, closed_by: ClosedBy::Cost, limits, ..batch });
    let (message, _) = worker.receive_until(is_final);
    let ToSupervisor::Done { records, .. } = message else { panic!("{message:?}") };
    assert!(records["batch_wait_seconds"] >= 0.0, "{records:?}");
}
