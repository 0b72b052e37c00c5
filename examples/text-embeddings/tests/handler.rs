//! Runs the handler program as the worker does: as a process with a socket as standard input.

#![cfg(test)]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use runpod_handler_protocol::{
    Decoder, ErrorKind, ErrorReport, PROTOCOL_VERSION, Received, StopReason, ToHandler, ToSupervisor, encode_header,
};
use serde_json::{Value, json};

/// Longest wait for one message: enough to load the model on a busy machine.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);

struct Worker {
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
    child: Child,
}

impl Worker {
    fn start(model: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(MESSAGE_TIMEOUT)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "this test stands in for the worker, which starts the handler")]
        let child = Command::new(env!("CARGO_BIN_EXE_text-embeddings"))
            .env("TEXT_EMBEDDINGS_MODEL_DIR", model)
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let mut this = Self { stream: ours, decoder: Decoder::new(), child };
        assert!(matches!(this.receive().0, ToSupervisor::Hello { .. }));
        this.send(
            &ToHandler::Hello {
                protocol: PROTOCOL_VERSION,
                worker_version: "test".into(),
                processes: 1,
                batch_reports: true,
            },
            &[],
        );
        let load = ToHandler::Load { worker_id: "test".into(), slots: 1, device: "cpu".into(), chunk_window: 1 };
        this.send(&load, &[]);
        this
    }

    fn loaded() -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2");
        let mut this = Self::start(&model);
        let mut stages = Vec::new();
        loop {
            match this.receive() {
                (ToSupervisor::Loading { stage, .. }, _) => stages.push(stage),
                (ToSupervisor::Loaded { device, .. }, _) => {
                    assert_eq!(device, "cpu");
                    assert!(stages.iter().any(|stage| stage == "weights"), "no progress was reported: {stages:?}");
                    return this;
                }
                (other, payload) => panic!("{other:?} {}", String::from_utf8_lossy(&payload)),
            }
        }
    }

    fn send(&mut self, message: &ToHandler, payload: &[u8]) {
        self.stream.write_all(&encode_header(message, payload.len()).unwrap()).unwrap();
        self.stream.write_all(payload).unwrap();
    }

    fn receive(&mut self) -> (ToSupervisor, Vec<u8>) {
        loop {
            match self.decoder.next().unwrap() {
                Some(Received::Message(message, payload)) => return (message, payload.to_vec()),
                Some(other) => panic!("{other:?}"),
                None => {
                    let read = self.decoder.read_from(&mut self.stream).unwrap();
                    assert_ne!(read, 0, "the handler closed the socket");
                }
            }
        }
    }

    fn submit(&mut self, job: &str, input: &Value) {
        self.submit_to(0, job, input);
    }

    fn submit_to(&mut self, slot: u32, job: &str, input: &Value) {
        let run = ToHandler::Run { job: job.into(), attempt: 1, slot, deadline_ms: 600_000, traceparent: None };
        self.send(&run, json!({ "id": job, "input": input }).to_string().as_bytes());
    }

    /// The output, or the error, of one job.
    fn run(&mut self, input: &Value) -> Result<Value, ErrorReport> {
        self.submit("job", input);
        self.outcome()
    }

    fn outcome(&mut self) -> Result<Value, ErrorReport> {
        loop {
            match self.receive() {
                (ToSupervisor::Started { .. } | ToSupervisor::Progress { .. }, _) => {}
                (ToSupervisor::Done { records, .. }, output) => {
                    let output: Value = serde_json::from_slice(&output).unwrap();
                    assert_eq!(records["tokens"], output["tokens"].as_f64().unwrap());
                    return Ok(output);
                }
                (ToSupervisor::Failed { .. }, report) => return Err(serde_json::from_slice(&report).unwrap()),
                (other, _) => panic!("{other:?}"),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_job_has_one_text_or_a_list() {
    let mut worker = Worker::loaded();
    let one = worker.run(&json!({ "input": "Rust" })).unwrap();
    assert_eq!(one["model"], "all-MiniLM-L6-v2");
    assert_eq!(one["dimensions"], 384);
    assert_eq!(one["tokens"], 3);
    assert_eq!(one["embeddings"].as_array().unwrap().len(), 1);
    assert_eq!(one["embeddings"][0].as_array().unwrap().len(), 384);

    let named = json!({ "model": "sentence-transformers/all-MiniLM-L6-v2", "input": ["Rust"] });
    assert_eq!(worker.run(&named).unwrap(), one, "a list of one text is the same job");
}

#[test]
fn an_invalid_job_fails_with_a_reason_and_the_next_job_runs() {
    let mut worker = Worker::loaded();
    let other = worker.run(&json!({ "model": "gpt-5", "input": "a" })).unwrap_err();
    assert_eq!(other.kind, ErrorKind::ModelNotFound);
    assert_eq!(other.message, r#"there is no model "gpt-5" here; available: "all-MiniLM-L6-v2""#);

    for (input, path) in [
        (json!({ "input": [] }), "input.input: must have 1 or more items"),
        (json!({ "input": ["a", 7] }), "input.input[1]: "),
        (json!({ "input": 7 }), "input.input: "),
        (json!({ "model": "all-MiniLM-L6-v2" }), "missing field `input`"),
    ] {
        let error = worker.run(&input).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Validation, "{input}");
        assert!(error.message.contains(path), "{input}: {}", error.message);
    }
    assert!(worker.run(&json!({ "input": "still here" })).is_ok());
}

#[test]
fn a_cancelled_job_ends_between_batches() {
    let mut worker = Worker::loaded();
    let texts = vec!["a text of some length, so that a batch takes its time, and there are many batches of it"; 4096];
    worker.submit("long", &json!({ "input": texts }));
    while !matches!(worker.receive().0, ToSupervisor::Progress { .. }) {}
    worker.send(&ToHandler::Stop { job: "long".into(), attempt: 1, reason: StopReason::Cancelled }, &[]);
    assert_eq!(worker.outcome().unwrap_err().kind, ErrorKind::Cancelled);
    assert!(worker.run(&json!({ "input": "the next job" })).is_ok());
}

#[test]
fn the_error_about_a_missing_model_names_the_fix() {
    let mut worker = Worker::start(&PathBuf::from("no/such/dir"));
    let (message, report) = worker.receive();
    assert!(matches!(message, ToSupervisor::LoadFailed { .. }), "{message:?}");
    let report: ErrorReport = serde_json::from_slice(&report).unwrap();
    assert_eq!(report.kind, ErrorKind::Load);
    assert!(report.message.contains("no/such/dir/config.json"), "{}", report.message);
    assert!(report.message.contains("`make model`"), "{}", report.message);
}

/// The jobs of a batch go through the network together, padded to the longest text.
#[test]
fn jobs_that_wait_at_the_same_time_get_the_vectors_that_they_would_get_alone() {
    let mut worker = Worker::loaded();
    let inputs = [json!("Rust"), json!(["A man is eating food.", "Someone is having a meal."]), json!("a b c d e f g")];
    let alone: Vec<Value> = inputs.iter().map(|input| worker.run(&json!({ "input": input })).unwrap()).collect();
    // The first job occupies the model while the others arrive.
    worker.submit_to(0, "first", &json!({ "input": vec!["a text that takes a while"; 512] }));
    while !matches!(worker.receive().0, ToSupervisor::Progress { .. }) {}
    let bad = json!({ "model": "gpt-5", "input": "a" });
    for (slot, input) in (1..).zip(&inputs) {
        worker.submit_to(slot, &format!("job-{slot}"), &json!({ "input": input }));
    }
    worker.submit_to(4, "job-4", &bad);
    let (mut sizes, mut outputs, mut failed) = (Vec::new(), vec![Value::Null; 3], 0);
    while outputs.contains(&Value::Null) || failed == 0 {
        match worker.receive() {
            (ToSupervisor::Done { job, records, .. }, output) if job != "first" => {
                let index: usize = job.strip_prefix("job-").unwrap().parse().unwrap();
                outputs[index - 1] = serde_json::from_slice(&output).unwrap();
                sizes.push(records["batch_items"]);
            }
            (ToSupervisor::Failed { job, .. }, report) => {
                let report: ErrorReport = serde_json::from_slice(&report).unwrap();
                assert_eq!((job.as_str(), report.kind), ("job-4", ErrorKind::ModelNotFound));
                failed += 1;
            }
            _ => {}
        }
    }
    assert_eq!(sizes, [4.0, 4.0, 4.0], "one batch");
    for (together, alone) in outputs.iter().zip(&alone) {
        let numbers = |output: &Value| -> Vec<f64> {
            let vectors: Vec<Vec<f64>> = serde_json::from_value(output["embeddings"].clone()).unwrap();
            vectors.concat()
        };
        let (together, alone) = (numbers(together), numbers(alone));
        assert_eq!(together.len(), alone.len());
        let difference = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference <= 1e-4, "largest difference {difference}");
    }
}
