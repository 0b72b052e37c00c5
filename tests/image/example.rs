//! The image of the text-embeddings example.

use std::time::Duration;

use end_to_end_tests::{Endpoint, gpu_not_tested, has_gpu, repository};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::container::{Image, Start, on, signal};

const ROOT: Start = Start { user: "0:0", read_only: false };
/// Libraries that come with the driver, from the host.
const DRIVER: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];

/// Runs every text of the reference as one job and compares the vectors.
async fn assert_golden(endpoint: &Endpoint) {
    let golden = repository().join("examples/text-embeddings/golden/golden.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 5, "the reference is elsewhere");
    let texts: Vec<&Value> = cases.iter().map(|case| &case["text"]).collect();
    let done = endpoint.client().run(json!({ "input": texts })).await;
    assert_eq!(done["status"], "COMPLETED", "{done}");
    let vectors = done["output"]["embeddings"].as_array().unwrap();
    assert_eq!(vectors.len(), cases.len());
    for (case, vector) in cases.iter().zip(vectors) {
        let numbers = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let (actual, expected) = (numbers(vector), numbers(&case["embedding"]));
        assert_eq!(actual.len(), expected.len());
        let difference = actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(difference <= 1e-4, "{}: largest difference {difference}", case["name"]);
    }
}

/// The container's whole life: ready, healthy, a job, and a drain that finishes the job that runs.
async fn lives_and_drains(start: Start) {
    let image = Image::under_test();
    let endpoint = Endpoint::start(&[]).await;
    let mut container = image.start_worker(&endpoint, start, &on("cpu"));
    container.worker.ready().await;
    assert_golden(&endpoint).await;

    let health_check = image.health_check();
    let command: Vec<&str> = health_check.iter().map(String::as_str).collect();
    let (code, text) = image.run(start, &container.env, &command);
    assert_eq!((code, text.trim()), (Some(0), r#"{"state":"live"}"#));

    let client = endpoint.client();
    let id = client.submit(json!({ "input": vec!["a text of some length, so that it takes its time"; 256] })).await;
    client.reaches(&id, "IN_PROGRESS").await;
    signal(&container.worker.daemon, Signal::TERM);
    let status = container.worker.daemon.wait(Duration::from_secs(180));
    assert_eq!(status.code(), Some(0), "{}", container.worker.daemon.log());
    assert_eq!(client.status(&id).await["status"], "COMPLETED");

    let (code, text) = image.run(start, &container.env, &command);
    assert_eq!(code, Some(1), "the health check passes without a worker: {text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn as_root() {
    lives_and_drains(ROOT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn as_its_own_user_without_a_place_to_write() {
    lives_and_drains(Start { user: "10001:10001", read_only: true }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an image: make image-test"]
async fn as_a_user_that_it_does_not_know() {
    lives_and_drains(Start { user: "12345:0", read_only: false }).await;
}

#[test]
#[ignore = "needs an image: make image-test"]
fn it_says_what_an_engine_must_know() {
    let image = Image::under_test();
    assert_eq!(image.list("Entrypoint"), ["tini", "--"]);
    assert_eq!(image.list("Cmd"), ["runpod-worker", "run"]);
    for (name, expected) in [("User", "10001:10001"), ("StopSignal", "SIGTERM"), ("WorkingDir", "/app")] {
        assert_eq!(image.config[name], expected, "{name}");
    }
    assert!(image.config["ExposedPorts"].get("8001/tcp").is_some());
    let env = image.list("Env");
    assert!(!env.iter().any(|pair| pair.starts_with("LD_LIBRARY_PATH=")), "{env:?}");
    assert_eq!(env.contains(&"NVIDIA_VISIBLE_DEVICES=all".to_owned()), image.has_cuda());
    let label =
        |name: &str| image.config["Labels"][name].as_str().unwrap_or_else(|| panic!("no label {name}")).to_owned();
    assert_eq!(label("org.opencontainers.image.version"), env!("CARGO_PKG_VERSION"));
    assert!(label("runpod-worker.handler-schema").starts_with("sha256:"));
    assert!(label("runpod-worker.libtorch").starts_with("2.11"));
}

#[test]
#[ignore = "needs an image: make image-test"]
fn check_lists_each_library_and_where_it_was_found() {
    let (code, text) = Image::under_test().run(ROOT, &on("cpu"), &["runpod-worker", "check"]);
    assert_eq!(code, Some(0), "{text}");
    let torch = "/opt/libtorch/torch/lib: libc10.so libgomp.so.1 libtorch_cpu.so";
    for words in ["ok       libtorch ", torch, "libcudart.so.13 libcupti.so.13", "--device cpu was asked for"] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
}

#[test]
#[ignore = "needs an image: make image-test"]
fn a_gpu_that_is_asked_for_and_missing_is_refused() {
    if has_gpu() {
        gpu_not_tested("a missing GPU: this machine has one");
        return;
    }
    let image = Image::under_test();
    let env =
        [("RUNPOD_WORKER_DEVICE".to_owned(), "cuda".to_owned()), ("RUNPOD_MIN_MEMORY_GB".to_owned(), "0.1".to_owned())];
    let (code, text) = image.run(ROOT, &env, &["runpod-worker", "check"]);
    assert_eq!(code, Some(1), "{text}");
    let expected = if image.has_cuda() {
        ["there is no NVIDIA driver", "start the container with its GPUs", "libtorch_cuda.so"]
    } else {
        ["this libtorch has no CUDA libraries", "use an image with the CUDA libraries", "libtorch_cpu.so"]
    };
    for words in expected {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
}

#[test]
#[ignore = "needs an image: make image-test"]
fn a_library_that_is_missing_is_named_with_the_fix() {
    // Hidden in this container only.
    let script = "mount -t tmpfs tmpfs /opt/libtorch/torch/lib && exec runpod-worker check";
    let (code, text) = Image::under_test().run(ROOT, &on("cpu"), &["sh", "-c", script]);
    assert_eq!(code, Some(1), "{text}");
    for words in ["FAILED   handler ", "fix: libtorch_cpu.so is not where programs look", "worker-base"] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
}

#[test]
#[ignore = "needs an image: make image-test"]
fn every_library_that_is_needed_is_inside() {
    let script = "find /app/handler /usr/local/bin /opt/libtorch -type f | while read -r file; do
        ldd \"$file\" 2>&1 | sed \"s|^|$file |\"
    done";
    let (code, text) = Image::under_test().run(ROOT, &[], &["sh", "-c", script]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("/app/handler") && line.contains("libtorch_cpu.so => /opt/libtorch"))
    );
    let missing: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("not found"))
        .filter(|line| !DRIVER.iter().any(|library| line.contains(library)))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
