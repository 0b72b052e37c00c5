//! The handler as the worker runs it, played by the SDK's testing kit.

#![cfg(test)]

use std::path::Path;
use std::sync::Once;

use runpod_handler_sdk::ErrorKind;
use runpod_handler_sdk::testing::{FakeDevice, Fault, Finished, Harness, JobRequest, Setup, TestError};
use serde_json::{Value, json};
use text_embeddings::TextEmbeddings;

fn setup() -> Setup {
    static IN_REPOSITORY: Once = Once::new();
    // Where the handler finds the model that `make model` has installed.
    IN_REPOSITORY.call_once(|| {
        std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
    });
    Setup::new().device("cpu")
}

fn loaded() -> Harness {
    let handler = setup().load_batch::<TextEmbeddings>().unwrap();
    assert!(
        handler.stages().iter().any(|stage| stage == "weights"),
        "no progress was reported: {:?}",
        handler.stages()
    );
    assert_eq!(handler.device(), "cpu");
    handler
}

/// The output of one job, whose tokens were recorded too.
fn output(finished: Finished) -> Value {
    assert_eq!(finished.records["tokens"], finished.output["tokens"].as_f64().unwrap());
    finished.output
}

/// Largest difference of two numbers in the vectors of two outputs.
fn difference(one: &Value, other: &Value) -> f64 {
    let numbers = |output: &Value| -> Vec<f64> {
        let vectors: Vec<Vec<f64>> = serde_json::from_value(output["embeddings"].clone()).unwrap();
        vectors.concat()
    };
    let (one, other) = (numbers(one), numbers(other));
    assert_eq!(one.len(), other.len());
    one.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A job that occupies the model while others arrive.
fn occupy(handler: &mut Harness) {
    let job = handler.submit(&json!({ "input": vec!["a text that takes a while"; 512] })).unwrap();
    handler.wait_until(job, |seen| !seen.progress.is_empty()).unwrap();
}

#[test]
fn a_job_has_one_text_or_a_list() {
    let mut handler = loaded();
    let one = output(handler.run(&json!({ "input": "Rust" })).unwrap());
    assert_eq!(one["model"], "all-MiniLM-L6-v2");
    assert_eq!(one["dimensions"], 384);
    assert_eq!(one["tokens"], 3);
    assert_eq!(one["embeddings"].as_array().unwrap().len(), 1);
    assert_eq!(one["embeddings"][0].as_array().unwrap().len(), 384);

    let named = json!({ "model": "sentence-transformers/all-MiniLM-L6-v2", "input": ["Rust"] });
    assert_eq!(output(handler.run(&named).unwrap()), one, "a list of one text is the same job");
}

#[test]
fn an_invalid_job_fails_with_a_reason_and_the_next_job_runs() {
    let mut handler = loaded();
    let other = handler.run(&json!({ "model": "gpt-5", "input": "a" })).unwrap_err();
    let report = other.report().unwrap();
    assert_eq!(report.kind, ErrorKind::ModelNotFound);
    assert_eq!(report.message, r#"there is no model "gpt-5" here; available: "all-MiniLM-L6-v2""#);

    for (input, path) in [
        (json!({ "input": [] }), "input.input: must have 1 or more items"),
        (json!({ "input": ["a", 7] }), "input.input[1]: "),
        (json!({ "input": 7 }), "input.input: "),
        (json!({ "model": "all-MiniLM-L6-v2" }), "missing field `input`"),
    ] {
        let error = handler.run(&input).unwrap_err();
        let report = error.report().unwrap();
        assert_eq!(report.kind, ErrorKind::Validation, "{input}");
        assert!(report.message.contains(path), "{input}: {}", report.message);
    }
    assert!(handler.run(&json!({ "input": "still here" })).is_ok());
}

#[test]
fn a_cancelled_job_ends_between_batches() {
    let mut handler = loaded();
    let texts = vec!["a text of some length, so that a batch takes its time, and there are many batches of it"; 4096];
    let long = handler.submit(&json!({ "input": texts })).unwrap();
    handler.wait_until(long, |seen| !seen.progress.is_empty()).unwrap();
    handler.cancel(long).unwrap();
    assert_eq!(handler.wait(long).unwrap_err().kind(), Some(ErrorKind::Cancelled));
    assert!(handler.run(&json!({ "input": "the next job" })).is_ok());
}

/// The jobs of a batch go through the network together, padded to the longest text.
#[test]
fn jobs_that_wait_at_the_same_time_get_the_vectors_that_they_would_get_alone() {
    let mut handler = loaded();
    let inputs = [json!("Rust"), json!(["A man is eating food.", "Someone is having a meal."]), json!("a b c d e f g")];
    let jobs: Vec<Value> = inputs.iter().map(|input| json!({ "input": input })).collect();
    let alone: Vec<Value> = jobs.iter().map(|job| handler.run(job).unwrap().output).collect();
    occupy(&mut handler);
    let bad = handler.submit(&json!({ "model": "gpt-5", "input": "a" })).unwrap();
    let together = handler.run_all(&jobs).unwrap();
    assert_eq!(handler.wait(bad).unwrap_err().kind(), Some(ErrorKind::ModelNotFound));
    for (together, alone) in together.into_iter().zip(&alone) {
        let together = together.unwrap();
        assert_eq!(together.records["batch_items"], 4.0, "one batch");
        let difference = difference(&together.output, alone);
        assert!(difference <= 1e-4, "largest difference {difference}");
    }
}

/// Every tensor that the model creates is an operation on the fake device, so this runs out of memory at many places in the network.
#[test]
fn running_out_of_memory_anywhere_fails_one_job_and_leaves_the_model_whole() {
    let device = FakeDevice::new();
    let mut handler = setup().fake_device(&device).load_batch::<TextEmbeddings>().unwrap();
    let job = json!({ "input": "A man is eating food." });
    let before = device.operations();
    let expected = handler.run(&job).unwrap().output;
    let operations = device.operations() - before;
    assert!(operations > 50, "the network has more tensors than {operations}");
    for operation in (0..operations).step_by(25) {
        device.fail_after(operation, Fault::OutOfMemory);
        let error = handler.run(&job).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::Oom), "operation {operation}: {error}");
        assert_eq!(handler.run(&job).unwrap().output, expected, "after operation {operation}");
    }
}

#[test]
fn a_batch_that_does_not_fit_the_memory_completes_in_halves() {
    let device = FakeDevice::new();
    let mut handler = setup().fake_device(&device).load_batch::<TextEmbeddings>().unwrap();
    let input = json!({ "input": "A man is eating food, and someone else is having a meal." });
    let alone = handler.run(&input).unwrap().output;
    occupy(&mut handler);
    let jobs: Vec<_> = (0..8).map(|_| handler.submit(&input).unwrap()).collect();
    // The largest tensor of eight such texts needs more than this, that of four needs less.
    device.limit_allocation(512 * 1024);
    for job in jobs {
        let finished = handler.wait(job).unwrap();
        assert_eq!(finished.records["batch_items"], 4.0);
        assert!(difference(&finished.output, &alone) <= 1e-4);
    }
}

#[test]
fn a_lost_device_costs_the_process_and_the_next_one_works() {
    let device = FakeDevice::new();
    let mut handler = setup().fake_device(&device).load_batch::<TextEmbeddings>().unwrap();
    let job = json!({ "input": "Rust" });
    device.fail_after(20, Fault::Lost);
    assert_eq!(handler.run(&job).unwrap_err().kind(), Some(ErrorKind::DeviceLost));
    handler.restart().unwrap();
    assert!(handler.run(&job).is_ok());
}

#[test]
fn a_job_that_is_not_json_fails_alone() {
    let mut handler = loaded();
    let job = handler.submit(JobRequest::raw("{\"input\": ")).unwrap();
    assert!(matches!(handler.wait(job), Err(TestError::Failed(_))));
    assert!(handler.run(&json!({ "input": "still here" })).is_ok());
}
