//! The whole handler program on threads of the test, driven by a test worker over a socket pair.

mod batches;
#[cfg(feature = "async")]
mod concurrent;
mod loading;
mod steps;
mod worker;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::records::PEAK_HOST_BYTES;
use runpod_handler_protocol::{
    CheckOrder, CheckReport, ErrorKind, ErrorReport, PROTOCOL_VERSION, ToHandler, ToSupervisor,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Check, EXIT_LOAD_FAILED, EXIT_PROTOCOL, Handler, HandlerError, Job, LoadEnv, NoChunks};

use worker::{DEADLINE_MS, MESSAGE_TIMEOUT, Worker, is_final};

/// A handler whose input names what it does.
struct Scripted {
    loads: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Do {
    Say { text: String },
    Facts,
    Panic { text: String },
    Fail { text: String },
    UntilStopped,
    Stream { count: u32 },
    Loads,
    TempDir,
    NoJson,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Said {
    Value(Value),
    NoJson(BTreeMap<u8, BTreeMap<Vec<u8>, u8>>),
}

impl Handler for Scripted {
    type Input = Do;
    type Output = Said;
    type Chunk = u32;
    const NAME: Option<&'static str> = Some("scripted");
    const IDEMPOTENT: bool = true;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let loads = env.shared(|| Ok(AtomicU32::new(0)))?;
        Ok(Self { loads: loads.fetch_add(1, Ordering::Relaxed) + 1 })
    }

    fn run(&mut self, input: Do, job: &Job<u32>) -> Result<Said, HandlerError> {
        Ok(Said::Value(match input {
            Do::Say { text } => json!(text),
            Do::Facts => {
                job.record("tokens", 12.0);
                job.record("ratio", f64::NAN);
                job.request_refresh();
                json!({
                    "id": job.id(), "attempt": job.attempt(), "trace": job.traceparent(),
                    "time": job.remaining() > Duration::ZERO, "bucket": job.field::<Value>("s3Config")?,
                })
            }
            Do::Panic { text } => panic!("{text}"),
            Do::Fail { text } => return Err(text.into()),
            Do::UntilStopped => loop {
                job.stop_point()?;
                std::thread::yield_now();
            },
            Do::Stream { count } => {
                for item in 1..=count {
                    job.progress(format!("emitting {item}"));
                    job.emit(item)?;
                }
                json!(count)
            }
            Do::Loads => json!(self.loads),
            Do::TempDir => {
                let folder = job.temp_dir()?;
                std::fs::write(folder.join("file"), "x")?;
                json!(folder)
            }
            Do::NoJson => return Ok(Said::NoJson([(1, [(vec![1], 1)].into())].into())),
        }))
    }
}

/// Reports that its model is on the CPU, and fails with its input as the message.
struct Quoting;

impl Handler for Quoting {
    type Input = String;
    type Output = Value;
    type Chunk = NoChunks;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        env.report_device("cpu");
        Ok(Self)
    }

    fn run(&mut self, input: String, _job: &Job<NoChunks>) -> Result<Value, HandlerError> {
        Err(input.into())
    }
}

/// Scoped threads of a handler can share its job.
const _: fn() = || {
    fn is_sync<T: Sync>() {}
    is_sync::<Job<u32>>();
};

#[test]
fn a_job_runs_and_its_output_is_returned() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    assert_eq!(
        (worker.manifest.name.as_str(), worker.manifest.idempotent, worker.manifest.streams),
        ("scripted", true, true)
    );
    worker.run("a", &json!({"do": "say", "text": "hello"}));
    worker.started();
    assert_eq!(worker.output(), json!("hello"));
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn a_job_can_read_its_properties_and_record_values() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    let envelope = json!({"id": "a", "input": {"do": "facts"}, "s3Config": {"bucketName": "b"}});
    worker.run_on(0, "a", DEADLINE_MS, &envelope);
    let (message, payload) = worker.receive_until(is_final);
    let ToSupervisor::Done { refresh, records, .. } = message else { panic!("unexpected {message:?}") };
    let names: Vec<&str> = records.keys().map(String::as_str).collect();
    assert_eq!((refresh, names), (true, vec![PEAK_HOST_BYTES, "tokens"]));
    assert!(records["tokens"] == 12.0 && records[PEAK_HOST_BYTES] > 0.0, "{records:?}");
    let facts: Value = serde_json::from_slice(&payload).unwrap();
    let expected =
        json!({"id": "a", "attempt": 1, "trace": "00-abc-def-01", "time": true, "bucket": {"bucketName": "b"}});
    assert_eq!(facts, expected);
}

#[test]
fn an_invalid_input_fails_with_its_path_and_the_slot_goes_on() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    worker.run("a", &json!({"do": "say", "text": 3}));
    let (report, reloading) = worker.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::Validation, false));
    assert!(report.message.starts_with("input") && report.message.contains("expected a string"), "{}", report.message);
    worker.run("b", &json!({"do": "say", "text": "x"}));
    assert_eq!(worker.output(), json!("x"));
}

#[test]
fn the_kind_of_an_error_follows_from_its_text() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    for (text, kind) in [
        ("no such voice", ErrorKind::InferenceError),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", ErrorKind::Oom),
        ("CUDA error: device-side assert triggered", ErrorKind::DeviceLost),
    ] {
        worker.run("a", &json!({"do": "fail", "text": text}));
        let (report, reloading) = worker.failure();
        assert_eq!((report.message.as_str(), report.kind, reloading), (text, kind, false));
    }
}

#[test]
fn a_panic_fails_its_job_and_the_slot_loads_again() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    worker.run("a", &json!({"do": "panic", "text": "index out of range"}));
    let (report, reloading) = worker.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::InferenceError, true));
    assert!(report.message.starts_with("the handler panicked at "), "{}", report.message);
    assert!(report.message.ends_with(": index out of range"), "{}", report.message);
    assert!(report.traceback.contains("serve::tests"), "a backtrace leads to the line: {}", report.traceback);
    worker.receive_until(|message| matches!(message, ToSupervisor::Loaded { slot: 0, .. }));
    worker.run("b", &json!({"do": "loads"}));
    assert_eq!(worker.output(), json!(2), "the shared counter outlives the reload");
}

#[test]
fn the_text_of_a_lost_device_fails_only_the_job_while_the_reported_device_works() {
    let mut worker = Worker::loaded::<Quoting>(1, 4);
    worker.run("a", &json!("CUDA error: an illegal memory access was encountered"));
    assert_eq!(worker.failure().0.kind, ErrorKind::InferenceError);
}

#[test]
fn a_cancelled_job_ends_at_its_next_stop_point() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    worker.run("a", &json!({"do": "until_stopped"}));
    worker.started();
    worker.cancel("a", 2);
    worker.cancel("b", 1);
    worker.cancel("a", 1);
    let (report, _) = worker.failure();
    // The text may go on: the cancel can arrive between `Started` and the first line of the handler.
    assert!(report.message.starts_with("the job was stopped: it was cancelled"), "{}", report.message);
    assert_eq!(report.kind, ErrorKind::Cancelled);
}

#[test]
fn a_cancel_right_behind_the_job_is_not_lost() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    for job in ["a", "b", "c"] {
        worker.run(job, &json!({"do": "until_stopped"}));
        worker.cancel(job, 1);
        assert_eq!(worker.failure().0.kind, ErrorKind::Cancelled);
    }
}

#[test]
fn a_job_ends_at_its_deadline_and_does_not_start_after_it() {
    let mut worker = Worker::loaded::<Scripted>(1, 4);
    let envelope = json!({"id": "a", "input": {"do": "until_stopped"}});
    worker.run_on(0, "a", 20, &envelope);
    assert_eq!(worker.failure().0.kind, ErrorKind::Timeout);
    worker.run_on(0, "a", 0, &json!({"id": "a", "input": {"do": "panic", "text": "begun"}}));
    let (report, reloading) = worker.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::Timeout, false));
}

#[test]
fn chunks_wait_for_the_window_and_the_result_is_sent_last() {
    let mut worker = Worker::loaded::<Scripted>(1, 2);
    worker.run("a", &json!({"do": "stream", "count": 5}));
    worker.started();
    let (mut chunks, mut acknowledged, mut progress) = (Vec::new(), 0, Value::Null);
    loop {
        match worker.receive() {
            (ToSupervisor::Chunk { seq, .. }, item) => {
                chunks.push((seq, serde_json::from_slice::<u64>(&item).unwrap()));
                assert!(seq - acknowledged <= 2, "chunk {seq} came with {acknowledged} acknowledged");
                // Only every second chunk is acknowledged, so that the window fills up.
                if seq % 2 == 0 {
                    acknowledged = seq;
                    worker.send(&ToHandler::ChunkAck { job: "a".into(), attempt: 1, seq }, b"");
                }
            }
            (ToSupervisor::Progress { .. }, value) => progress = serde_json::from_slice(&value).unwrap(),
            (ToSupervisor::Done { .. }, output) => {
                assert_eq!(output, "5");
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(chunks, [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    assert_eq!(progress, json!("emitting 5"), "the last progress is never lost");
}

#[test]
fn a_job_that_waits_for_the_chunk_window_can_be_cancelled() {
    let mut worker = Worker::loaded::<Scripted>(1, 1);
    worker.run("a", &json!({"do": "stream", "count": 3}));
    worker.started();
    // Each progress is reported before its chunk; the second chunk waits. The two messages can arrive in either order.
    let (mut first, mut second) = (false, false);
    while !(first && second) {
        match worker.receive() {
            (ToSupervisor::Chunk { seq, .. }, _) => first = seq == 1,
            (ToSupervisor::Progress { .. }, value) => second = value == "\"emitting 2\"",
            other => panic!("unexpected {other:?}"),
        }
    }
    worker.cancel("a", 1);
    let (message, report) = worker.receive();
    assert!(matches!(message, ToSupervisor::Failed { .. }), "no further chunk: {message:?}");
    assert_eq!(serde_json::from_slice::<ErrorReport>(&report).unwrap().kind, ErrorKind::Cancelled);
}

#[test]
fn pings_are_answered_while_the_handler_spins() {
    let mut worker = Worker::loaded::<Scripted>(1, 1);
    worker.run("a", &json!({"do": "until_stopped"}));
    worker.started();
    for seq in 1..=3 {
        worker.send(&ToHandler::Ping { seq }, b"");
        assert_eq!(worker.receive().0, ToSupervisor::Pong { seq });
    }
}

#[test]
fn an_output_that_cannot_be_written_as_json_fails_the_job() {
    let mut worker = Worker::loaded::<Scripted>(1, 1);
    worker.run("a", &json!({"do": "no_json"}));
    let (report, reloading) = worker.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::Protocol, false));
    assert!(report.message.contains("key must be a string"), "{}", report.message);
}

#[test]
fn the_temporary_directory_of_a_job_is_removed_before_its_result_is_sent() {
    let mut worker = Worker::loaded::<Scripted>(1, 1);
    worker.run("a", &json!({"do": "temp_dir"}));
    let folder: PathBuf = serde_json::from_value(worker.output()).unwrap();
    assert!(folder.is_absolute() && !folder.exists(), "{}", folder.display());
}

#[test]
fn slots_share_values_and_run_jobs_at_the_same_time() {
    let mut worker = Worker::loaded::<Scripted>(3, 1);
    for slot in 0..3 {
        let job = format!("job-{slot}");
        worker.run_on(slot, &job, DEADLINE_MS, &json!({"id": job, "input": {"do": "until_stopped"}}));
        worker.started();
    }
    for slot in 0..3 {
        worker.cancel(&format!("job-{slot}"), 1);
        assert_eq!(worker.failure().0.kind, ErrorKind::Cancelled);
    }
    let mut loads: Vec<u64> = (0..3)
        .map(|slot| {
            worker.run_on(slot, "a", DEADLINE_MS, &json!({"id": "a", "input": {"do": "loads"}}));
            worker.output().as_u64().unwrap()
        })
        .collect();
    loads.sort_unstable();
    assert_eq!(loads, [1, 2, 3], "three slots counted on one shared counter");
}

#[test]
fn a_job_for_a_slot_that_does_not_exist_is_rejected() {
    let mut worker = Worker::loaded::<Scripted>(1, 1);
    worker.run_on(7, "a", DEADLINE_MS, &json!({"id": "a"}));
    let (report, _) = worker.failure();
    assert_eq!(report.kind, ErrorKind::Protocol);
}

#[test]
fn shutdown_lets_the_running_job_finish() {
    let mut worker = Worker::loaded::<Scripted>(1, 1);
    worker.run("a", &json!({"do": "until_stopped"}));
    worker.started();
    worker.send(&ToHandler::Shutdown, b"");
    // The process still answers pings and handles cancels.
    worker.send(&ToHandler::Ping { seq: 1 }, b"");
    assert_eq!(worker.receive().0, ToSupervisor::Pong { seq: 1 });
    worker.cancel("a", 1);
    assert_eq!(worker.failure().0.kind, ErrorKind::Cancelled);
    assert_eq!(worker.handler.join().unwrap(), 0);
}

#[test]
fn bytes_that_are_not_a_frame_end_the_process() {
    let mut worker = Worker::start::<Scripted>();
    worker.hello(PROTOCOL_VERSION);
    worker.stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(worker.handler.join().unwrap(), EXIT_PROTOCOL);
}

#[test]
fn a_probe_is_answered_by_the_slot() {
    let mut worker = Worker::loaded::<Scripted>(2, 4);
    worker.send(&ToHandler::Probe { slot: 1 }, b"");
    assert_eq!(worker.receive().0, ToSupervisor::Probed { slot: 1, ok: true });
    worker.send(&ToHandler::Probe { slot: 7 }, b"");
    assert_eq!(worker.shut_down(), 0);
}
