//! Handshake, fitness checks and load: everything before the first job.

use super::*;

#[test]
fn another_protocol_version_is_rejected() {
    let mut worker = Worker::start::<Scripted>();
    worker.hello(PROTOCOL_VERSION + 1);
    assert_eq!(worker.handler.join().unwrap(), EXIT_PROTOCOL);
}

struct Unloadable;

impl Handler for Unloadable {
    type Input = Value;
    type Output = Value;
    type Chunk = NoChunks;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.progress("weights", 1, 2);
        if env.requested_device() == "auto" {
            panic!("no weights");
        }
        Ok(Self)
    }

    fn run(&mut self, input: Value, _job: &Job<NoChunks>) -> Result<Value, HandlerError> {
        Ok(input)
    }
}

#[test]
fn a_load_that_fails_is_reported_and_ends_the_process() {
    for (device, text) in [("auto", "load panicked at "), ("cuda", "the worker was started with --device cuda")] {
        let mut worker = Worker::start::<Unloadable>();
        assert!(!worker.manifest.streams && worker.manifest.chunk_schema.is_none());
        worker.order_load(1, device, 1);
        let (message, report) = worker.receive_until(|message| !matches!(message, ToSupervisor::Loading { .. }));
        assert_eq!(message, ToSupervisor::LoadFailed { slot: 0 });
        let report: ErrorReport = serde_json::from_slice(&report).unwrap();
        assert_eq!(report.kind, ErrorKind::Load);
        assert!(report.message.starts_with(text), "{}", report.message);
        assert_eq!(worker.handler.join().unwrap(), EXIT_LOAD_FAILED);
    }
}

/// A handler with a fitness check that passes only for a worker called `good`.
struct Checked;

impl Handler for Checked {
    type Input = Value;
    type Output = Value;
    type Chunk = NoChunks;

    fn checks(env: &LoadEnv) -> Vec<Check> {
        let id = env.worker_id().to_owned();
        let good = move || if id == "good" { Ok(id) } else { Err("no such model".into()) };
        vec![Check::new("model", good).fix("download it")]
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.report_device("cpu");
        Ok(Self)
    }

    fn run(&mut self, input: Value, _job: &Job<NoChunks>) -> Result<Value, HandlerError> {
        Ok(input)
    }
}

/// Orders the checks and, right behind them, the load; returns the reports of the checks.
fn checked(worker_id: &str) -> (Worker, Vec<CheckReport>) {
    let mut worker = Worker::start::<Checked>();
    worker.hello(PROTOCOL_VERSION);
    let order = CheckOrder {
        worker_id: worker_id.into(),
        slots: 2,
        device: "cpu".into(),
        system: true,
        gpu_memory: true,
        min_cuda: (11, 8),
        min_gpu_memory: 0,
        benchmark_limit_ms: 2000,
        gpu_limit_ms: 30_000,
    };
    worker.send(&ToHandler::Check(order), b"");
    let load = ToHandler::Load { worker_id: worker_id.into(), slots: 2, device: "cpu".into(), chunk_window: 1 };
    worker.send(&load, b"");
    let (message, reports) = worker.receive();
    assert_eq!(message, ToSupervisor::Checked);
    (worker, serde_json::from_slice(&reports).unwrap())
}

#[test]
fn slots_load_once_the_checks_have_passed() {
    let (mut worker, reports) = checked("good");
    assert_eq!(reports[0], CheckReport::ok("model", "good"));
    assert!(!reports.iter().any(CheckReport::is_failure), "{reports:?}");
    for _ in 0..2 {
        let (message, _) = worker.receive();
        assert!(matches!(message, ToSupervisor::Loaded { .. }), "{message:?}");
    }
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn nothing_is_loaded_after_a_failed_check() {
    let (mut worker, reports) = checked("bad");
    assert_eq!(reports[0], CheckReport::failed("model", "no such model", "download it"));
    assert_eq!(worker.handler.join().unwrap(), EXIT_LOAD_FAILED);
    worker.stream.set_nonblocking(true).unwrap();
    let silence = worker.decoder.read_from(&mut worker.stream).unwrap_err();
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock, "another message was sent");
}
