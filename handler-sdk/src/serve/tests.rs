//! The whole loop on threads, driven by a scripted supervisor over a socket pair.

mod loading;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::records::PEAK_HOST_BYTES;
use runpod_handler_protocol::{
    CancelReason, CheckOrder, CheckReport, Decoder, ErrorKind, ErrorReport, Manifest, PROTOCOL_VERSION, Received,
    ToHandler, ToSupervisor, encode_header,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::serve::serve_on;
use crate::{Check, EXIT_LOAD_FAILED, EXIT_PROTOCOL, Handler, HandlerError, Job, LoadEnv, NoChunks};

/// Far longer than anything here takes; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(30);
const DEADLINE_MS: u64 = 60_000;

struct Supervisor {
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
    handler: JoinHandle<u8>,
    manifest: Manifest,
}

impl Supervisor {
    fn start<H: Handler>() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let handler = std::thread::spawn(|| serve_on::<H>(theirs, || {}));
        let manifest = Manifest {
            name: String::new(),
            version: String::new(),
            idempotent: false,
            streams: false,
            input_schema: Value::Null,
            output_schema: Value::Null,
            chunk_schema: None,
        };
        let mut this = Self { stream: ours, decoder: Decoder::new(), handler, manifest };
        let (hello, payload) = this.receive();
        assert!(matches!(hello, ToSupervisor::Hello { protocol: PROTOCOL_VERSION, .. }), "{hello:?}");
        this.manifest = serde_json::from_slice(&payload).unwrap();
        this
    }

    fn hello(&mut self, protocol: u32) {
        self.send(&ToHandler::Hello { protocol, worker_version: "0.1.0".into() }, b"");
    }

    fn order_load(&mut self, slots: u32, device: &str, chunk_window: u32) {
        self.hello(PROTOCOL_VERSION);
        self.send(&ToHandler::Load { worker_id: "w1".into(), slots, device: device.into(), chunk_window }, b"");
    }

    /// A handler with loaded slots.
    fn loaded<H: Handler>(slots: u32, chunk_window: u32) -> Self {
        let mut this = Self::start::<H>();
        this.order_load(slots, "auto", chunk_window);
        for _ in 0..slots {
            this.receive_until(|message| matches!(message, ToSupervisor::Loaded { .. }));
        }
        this
    }

    fn send(&mut self, message: &ToHandler, payload: &[u8]) {
        let mut frame = encode_header(message, payload.len()).unwrap();
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).unwrap();
    }

    fn run(&mut self, job: &str, input: &Value) {
        self.run_on(0, job, DEADLINE_MS, &json!({"id": job, "input": input}));
    }

    fn run_on(&mut self, slot: u32, job: &str, deadline_ms: u64, envelope: &Value) {
        let run = ToHandler::Run {
            job: job.into(),
            attempt: 1,
            slot,
            deadline_ms,
            traceparent: Some("00-abc-def-01".into()),
        };
        self.send(&run, envelope.to_string().as_bytes());
    }

    fn cancel(&mut self, job: &str, attempt: u32) {
        self.send(&ToHandler::Cancel { job: job.into(), attempt, reason: CancelReason::Stopped }, b"");
    }

    fn receive(&mut self) -> (ToSupervisor, Bytes) {
        loop {
            match self.decoder.next().unwrap() {
                Some(Received::Message(message, payload)) => return (message, payload),
                Some(other) => panic!("unexpected {other:?}"),
                None => assert_ne!(self.decoder.read_from(&mut self.stream).expect("a message in time"), 0, "closed"),
            }
        }
    }

    fn receive_until(&mut self, wanted: impl Fn(&ToSupervisor) -> bool) -> (ToSupervisor, Bytes) {
        loop {
            let (message, payload) = self.receive();
            if wanted(&message) {
                return (message, payload);
            }
        }
    }

    fn started(&mut self) {
        let (message, _) = self.receive();
        assert!(matches!(message, ToSupervisor::Started { .. }), "{message:?}");
    }

    fn output(&mut self) -> Value {
        let (message, payload) = self.receive_until(is_final);
        assert!(matches!(message, ToSupervisor::Done { .. }), "{message:?} {payload:?}");
        serde_json::from_slice(&payload).unwrap()
    }

    /// The report of a failed job, and whether the slot reloads.
    fn failure(&mut self) -> (ErrorReport, bool) {
        match self.receive_until(is_final) {
            (ToSupervisor::Failed { reloading, .. }, report) => (serde_json::from_slice(&report).unwrap(), reloading),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn shut_down(mut self) -> u8 {
        self.send(&ToHandler::Shutdown, b"");
        self.handler.join().unwrap()
    }
}

fn is_final(message: &ToSupervisor) -> bool {
    matches!(message, ToSupervisor::Done { .. } | ToSupervisor::Failed { .. })
}

/// Does what its input says.
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
                job.check()?;
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

/// Reports that it lives on the CPU, and fails with what it is sent.
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

/// Handlers lend their job to scoped threads.
const _: fn() = || {
    fn is_sync<T: Sync>() {}
    is_sync::<Job<u32>>();
};

#[test]
fn a_job_is_run_and_answered() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    assert_eq!(
        (supervisor.manifest.name.as_str(), supervisor.manifest.idempotent, supervisor.manifest.streams),
        ("scripted", true, true)
    );
    supervisor.run("a", &json!({"do": "say", "text": "hello"}));
    supervisor.started();
    assert_eq!(supervisor.output(), json!("hello"));
    assert_eq!(supervisor.shut_down(), 0);
}

#[test]
fn a_job_knows_its_facts_and_leaves_its_figures() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    let envelope = json!({"id": "a", "input": {"do": "facts"}, "s3Config": {"bucketName": "b"}});
    supervisor.run_on(0, "a", DEADLINE_MS, &envelope);
    let (message, payload) = supervisor.receive_until(is_final);
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
fn a_bad_input_names_its_path_and_the_slot_goes_on() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    supervisor.run("a", &json!({"do": "say", "text": 3}));
    let (report, reloading) = supervisor.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::Validation, false));
    assert!(report.message.starts_with("input") && report.message.contains("expected a string"), "{}", report.message);
    supervisor.run("b", &json!({"do": "say", "text": "x"}));
    assert_eq!(supervisor.output(), json!("x"));
}

#[test]
fn an_error_is_judged_by_its_text() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    for (text, kind) in [
        ("no such voice", ErrorKind::InferenceError),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", ErrorKind::Oom),
        ("CUDA error: device-side assert triggered", ErrorKind::DeviceLost),
    ] {
        supervisor.run("a", &json!({"do": "fail", "text": text}));
        let (report, reloading) = supervisor.failure();
        assert_eq!((report.message.as_str(), report.kind, reloading), (text, kind, false));
    }
}

#[test]
fn a_panic_fails_its_job_and_the_slot_loads_again() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    supervisor.run("a", &json!({"do": "panic", "text": "index out of range"}));
    let (report, reloading) = supervisor.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::InferenceError, true));
    assert!(report.message.starts_with("the handler panicked at "), "{}", report.message);
    assert!(report.message.ends_with(": index out of range"), "{}", report.message);
    assert!(report.traceback.contains("loop_tests"), "a backtrace leads to the line: {}", report.traceback);
    supervisor.receive_until(|message| matches!(message, ToSupervisor::Loaded { slot: 0, .. }));
    supervisor.run("b", &json!({"do": "loads"}));
    assert_eq!(supervisor.output(), json!(2), "the shared counter outlives the reload");
}

#[test]
fn the_text_of_a_lost_device_is_a_quotation_while_the_reported_device_works() {
    let mut supervisor = Supervisor::loaded::<Quoting>(1, 4);
    supervisor.run("a", &json!("CUDA error: an illegal memory access was encountered"));
    assert_eq!(supervisor.failure().0.kind, ErrorKind::InferenceError);
}

#[test]
fn a_cancelled_job_ends_at_its_next_check() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    supervisor.run("a", &json!({"do": "until_stopped"}));
    supervisor.started();
    supervisor.cancel("a", 2);
    supervisor.cancel("b", 1);
    supervisor.cancel("a", 1);
    let (report, _) = supervisor.failure();
    // The cancel may overtake the handler's code on its way from `Started` to its first line.
    assert!(report.message.starts_with("the job was stopped: it was cancelled"), "{}", report.message);
    assert_eq!(report.kind, ErrorKind::Cancelled);
}

#[test]
fn a_cancel_right_behind_the_job_is_not_lost() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    for job in ["a", "b", "c"] {
        supervisor.run(job, &json!({"do": "until_stopped"}));
        supervisor.cancel(job, 1);
        assert_eq!(supervisor.failure().0.kind, ErrorKind::Cancelled);
    }
}

#[test]
fn a_job_ends_at_its_deadline_and_is_not_begun_after_it() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 4);
    let envelope = json!({"id": "a", "input": {"do": "until_stopped"}});
    supervisor.run_on(0, "a", 20, &envelope);
    assert_eq!(supervisor.failure().0.kind, ErrorKind::Timeout);
    supervisor.run_on(0, "a", 0, &json!({"id": "a", "input": {"do": "panic", "text": "begun"}}));
    let (report, reloading) = supervisor.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::Timeout, false));
}

#[test]
fn chunks_wait_for_room_and_the_result_comes_last() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 2);
    supervisor.run("a", &json!({"do": "stream", "count": 5}));
    supervisor.started();
    let (mut chunks, mut acknowledged, mut progress) = (Vec::new(), 0, Value::Null);
    loop {
        match supervisor.receive() {
            (ToSupervisor::Chunk { seq, .. }, item) => {
                chunks.push((seq, serde_json::from_slice::<u64>(&item).unwrap()));
                assert!(seq - acknowledged <= 2, "chunk {seq} came with {acknowledged} acknowledged");
                // Only every second one, so that the window fills up.
                if seq % 2 == 0 {
                    acknowledged = seq;
                    supervisor.send(&ToHandler::ChunkAck { job: "a".into(), attempt: 1, seq }, b"");
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
    assert_eq!(progress, json!("emitting 5"), "the newest progress is never lost");
}

#[test]
fn a_job_that_waits_for_room_can_be_cancelled() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 1);
    supervisor.run("a", &json!({"do": "stream", "count": 3}));
    supervisor.started();
    // It says so before it emits, and the second finds no room. The two can come in either order.
    let (mut first, mut second) = (false, false);
    while !(first && second) {
        match supervisor.receive() {
            (ToSupervisor::Chunk { seq, .. }, _) => first = seq == 1,
            (ToSupervisor::Progress { .. }, value) => second = value == "\"emitting 2\"",
            other => panic!("unexpected {other:?}"),
        }
    }
    supervisor.cancel("a", 1);
    let (message, report) = supervisor.receive();
    assert!(matches!(message, ToSupervisor::Failed { .. }), "no further chunk: {message:?}");
    assert_eq!(serde_json::from_slice::<ErrorReport>(&report).unwrap().kind, ErrorKind::Cancelled);
}

#[test]
fn pings_are_answered_while_the_handler_spins() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 1);
    supervisor.run("a", &json!({"do": "until_stopped"}));
    supervisor.started();
    for seq in 1..=3 {
        supervisor.send(&ToHandler::Ping { seq }, b"");
        assert_eq!(supervisor.receive().0, ToSupervisor::Pong { seq });
    }
}

#[test]
fn an_output_without_json_form_fails_the_job() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 1);
    supervisor.run("a", &json!({"do": "no_json"}));
    let (report, reloading) = supervisor.failure();
    assert_eq!((report.kind, reloading), (ErrorKind::Protocol, false));
    assert!(report.message.contains("key must be a string"), "{}", report.message);
}

#[test]
fn the_folder_of_a_job_is_gone_when_the_result_comes() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 1);
    supervisor.run("a", &json!({"do": "temp_dir"}));
    let folder: PathBuf = serde_json::from_value(supervisor.output()).unwrap();
    assert!(folder.is_absolute() && !folder.exists(), "{}", folder.display());
}

#[test]
fn slots_share_values_and_run_side_by_side() {
    let mut supervisor = Supervisor::loaded::<Scripted>(3, 1);
    for slot in 0..3 {
        let job = format!("job-{slot}");
        supervisor.run_on(slot, &job, DEADLINE_MS, &json!({"id": job, "input": {"do": "until_stopped"}}));
        supervisor.started();
    }
    for slot in 0..3 {
        supervisor.cancel(&format!("job-{slot}"), 1);
        assert_eq!(supervisor.failure().0.kind, ErrorKind::Cancelled);
    }
    let mut loads: Vec<u64> = (0..3)
        .map(|slot| {
            supervisor.run_on(slot, "a", DEADLINE_MS, &json!({"id": "a", "input": {"do": "loads"}}));
            supervisor.output().as_u64().unwrap()
        })
        .collect();
    loads.sort_unstable();
    assert_eq!(loads, [1, 2, 3], "three slots counted on one shared counter");
}

#[test]
fn a_job_for_no_slot_is_refused() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 1);
    supervisor.run_on(7, "a", DEADLINE_MS, &json!({"id": "a"}));
    let (report, _) = supervisor.failure();
    assert_eq!(report.kind, ErrorKind::Protocol);
}

#[test]
fn shutdown_lets_the_running_job_finish() {
    let mut supervisor = Supervisor::loaded::<Scripted>(1, 1);
    supervisor.run("a", &json!({"do": "until_stopped"}));
    supervisor.started();
    supervisor.send(&ToHandler::Shutdown, b"");
    // The process still answers, and still takes the cancel.
    supervisor.send(&ToHandler::Ping { seq: 1 }, b"");
    assert_eq!(supervisor.receive().0, ToSupervisor::Pong { seq: 1 });
    supervisor.cancel("a", 1);
    assert_eq!(supervisor.failure().0.kind, ErrorKind::Cancelled);
    assert_eq!(supervisor.handler.join().unwrap(), 0);
}

#[test]
fn bytes_that_are_no_frame_end_the_process() {
    let mut supervisor = Supervisor::start::<Scripted>();
    supervisor.hello(PROTOCOL_VERSION);
    supervisor.stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(supervisor.handler.join().unwrap(), EXIT_PROTOCOL);
}

#[test]
fn a_probe_is_answered_by_the_slot() {
    let mut supervisor = Supervisor::loaded::<Scripted>(2, 4);
    supervisor.send(&ToHandler::Probe { slot: 1 }, b"");
    assert_eq!(supervisor.receive().0, ToSupervisor::Probed { slot: 1, ok: true });
    supervisor.send(&ToHandler::Probe { slot: 7 }, b"");
    assert_eq!(supervisor.shut_down(), 0);
}
