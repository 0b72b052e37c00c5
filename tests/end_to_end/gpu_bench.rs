//! The benchmark for machines with a GPU (`tests/gpu`), on the CPU and short: all of it but the official worker, whose PyTorch is too
//! large to download for a test, and the launch of kernels on a GPU. `make gpu-check` runs it with the official worker.

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Daemon, binary, repository, run_tool};
use serde_json::Value;
use tempfile::TempDir;

/// The model's small files, and weights of a seed.
fn seeded_model() -> TempDir {
    let folder = TempDir::new().unwrap();
    let model = repository().join(".models/all-MiniLM-L6-v2");
    for file in ["config.json", "sentence_bert_config.json", "tokenizer.json"] {
        std::fs::copy(model.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// Runs the script; returns what it has written.
fn run(model: &Path, flags: &[&str]) -> Value {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("gpu-bench.json");
    let programs = binary("text-embeddings").parent().unwrap().to_owned();
    let script = repository().join("tests/gpu/bench.py");
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut args = vec![path(&script)];
    args.extend(["--device", "cpu", "--only", "ours", "--quick"].map(str::to_owned));
    args.extend([
        "--bin".to_owned(),
        path(&programs),
        "--model".to_owned(),
        path(model),
        "--out".to_owned(),
        path(&out),
    ]);
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut bench = Daemon::start("bench.py", Path::new("python3"), &args, &[]);
    let status = bench.wait(Duration::from_secs(300));
    assert!(status.success(), "{status}");
    assert!(bench.log().contains("| runpod-worker | one short text |"), "no table");
    serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap()
}

fn assert_measured(figures: &Value) {
    let rows = figures["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{figures}");
    for row in rows {
        assert!(row["jobs_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["device_busy_percent"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(figures["hardware"]["cpu"].as_str().is_some_and(|cpu| !cpu.is_empty()), "{figures}");
    assert!(figures["date"].as_str().is_some_and(|date| date.len() == 10), "{figures}");
}

#[test]
fn the_gpu_benchmark_runs_on_a_cpu_with_real_weights() {
    let figures = run(&repository().join(".models/all-MiniLM-L6-v2"), &["--precision", "f32"]);
    assert_measured(&figures);
    assert_eq!(figures["precision"], "f32");
}

#[test]
fn the_gpu_benchmark_makes_the_weights_that_it_was_not_given() {
    let model = seeded_model();
    let figures = run(model.path(), &["--precision", "bf16"]);
    assert_measured(&figures);
    // Half of what the real ones have in full precision, and the same everywhere.
    let weights = std::fs::read(model.path().join("model.safetensors")).unwrap();
    assert!((45_000_000..46_000_000).contains(&weights.len()), "{} bytes", weights.len());
    let again = seeded_model();
    let script = repository().join("tests/gpu/weights.py").to_string_lossy().into_owned();
    let (folder, file) = (again.path().to_string_lossy().into_owned(), again.path().join("model.safetensors"));
    let made = run_tool("python3", &[&script, "seeded", &folder, &file.to_string_lossy()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(std::fs::read(file).unwrap() == weights, "every run has the same weights");
}
