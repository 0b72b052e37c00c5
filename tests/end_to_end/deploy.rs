//! `docs/deploy.md`, step by step, with the endpoint in the platform's place; and the files that RunPod's Hub reads.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Daemon, Endpoint, Worker, WorkerOptions, binary, eventually, free_port, repository, run_tool};
use serde_json::{Value, json};

const CLIENT_KEY: &str = "rehearsal-client-key";
const WORKER_KEY: &str = "rehearsal-worker-key";
const MODEL: &str = ".models/all-MiniLM-L6-v2";
/// Loading a real model takes its time on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn file(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first shell block of the guide that contains `word`.
fn block(word: &str) -> String {
    let text = file("docs/deploy.md");
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.into_iter().find(|block| block.contains(word)).unwrap_or_else(|| panic!("no block with {word}")).to_owned()
}

/// All Rust sources of a folder.
fn sources(folder: &str) -> String {
    let list = run_tool("find", &[folder, "-name", "*.rs"]);
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(!list.is_empty(), "{folder} is elsewhere");
    list.lines().map(file).collect()
}

fn bash(script: &str) -> String {
    let mut shell = Daemon::start("deploy.md", Path::new("bash"), &["-euc".to_owned(), script.to_owned()], &[]);
    let status = shell.wait(LIMIT);
    assert!(status.success(), "{status}: {script}\n{}", shell.log());
    shell.log()
}

fn embeddings() -> (std::path::PathBuf, (String, String)) {
    let model = repository().join(MODEL);
    assert!(model.is_dir(), "the example's model is not installed: run `make model`");
    (binary("text-embeddings"), ("TEXT_EMBEDDINGS_MODEL_DIR".to_owned(), model.to_string_lossy().into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_job_is_sent_as_the_guide_says() {
    let endpoint = Endpoint::start(&["--api-key", CLIENT_KEY, "--worker-key", WORKER_KEY]).await;
    let (handler, model) = embeddings();
    let mut env = endpoint.worker_env("worker-1");
    env.push(model);
    env.push(("RUNPOD_AI_API_KEY".to_owned(), WORKER_KEY.to_owned()));
    env.push(("RUNPOD_ENDPOINT_ID".to_owned(), "test".to_owned()));
    let worker = Worker::start_with(env, &handler, WorkerOptions::default());
    worker.ready().await;

    let script = block("export ENDPOINT=")
        .replace("RUNPOD_API_KEY=…", &format!("RUNPOD_API_KEY={CLIENT_KEY}"))
        .replace("https://api.runpod.ai/v2/<endpoint id>", &format!("{}/test", endpoint.base));
    let said = bash(&script);
    for words in ["\"status\":\"COMPLETED\"", "\"dimensions\":384", "\"inProgress\":0"] {
        assert!(said.contains(words), "no {words} in {said}");
    }
    let log = worker.daemon.log();
    assert!(!log.contains(WORKER_KEY), "the worker's key is in its log");
    let first: Value = serde_json::from_str(log.lines().find(|line| line.contains("Started.")).unwrap()).unwrap();
    assert_eq!(first["level"], "INFO", "with RUNPOD_ENDPOINT_ID the log is for machines");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancing_worker_answers_as_the_guide_says() {
    let (port, health) = (free_port(), free_port());
    let (handler, model) = embeddings();
    let args = ["serve", "--http-bind", "none", "--", &handler.to_string_lossy()].map(str::to_owned).to_vec();
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let env = [
        pair("PORT", port.to_string()),
        pair("PORT_HEALTH", health.to_string()),
        pair("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true".to_owned()),
        model,
    ];
    let _worker = Daemon::start("worker", &binary("runpod-worker"), &args, &env);
    eventually("200 on the health port", || async {
        let reply = reqwest::get(format!("http://127.0.0.1:{health}/ping")).await.ok()?;
        (reply.status() == 200).then_some(())
    })
    .await;
    let calls = block("api.runpod.ai/runsync")
        .replace("https://<endpoint id>.api.runpod.ai", &format!("http://127.0.0.1:{port}"));
    let call = calls.lines().next().unwrap();
    let said = bash(&format!("RUNPOD_API_KEY=any; {call}"));
    assert!(said.contains("\"status\":\"COMPLETED\"") && said.contains("\"dimensions\":384"), "{said}");
}

/// A variable that the guide names and no program reads would mislead people.
#[test]
fn every_variable_of_the_guide_is_read_by_somebody() {
    let text = file("docs/deploy.md");
    let worker = binary("runpod-worker").to_string_lossy().into_owned();
    let mut known = String::new();
    for command in ["run", "serve", "check"] {
        known += &String::from_utf8(run_tool(&worker, &[command, "--help"]).stdout).unwrap();
    }
    known += &file("examples/text-embeddings/src/handler.rs");
    known += &sources("worker/src");
    // The platform's own, and the client's.
    known += "RUNPOD_SECRET_name RUNPOD_API_KEY";
    let words: BTreeSet<&str> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("RUNPOD_") || word.starts_with("TEXT_EMBEDDINGS_"))
        .collect();
    assert!(words.len() > 5, "{words:?}");
    for word in words {
        assert!(known.contains(word), "nobody reads {word}");
    }
}

/// People search for texts of the log in the guide.
#[test]
fn every_reason_of_the_guide_is_logged_in_these_words() {
    let text = file("docs/deploy.md");
    let table = text.split_once("| log | fix |").unwrap().1.split_once("## ").unwrap().0;
    let logged = sources("worker/src") + &sources("worker/core/src") + &sources("handler-sdk/src");
    let mut quotes = 0;
    for row in table.lines().filter(|row| row.starts_with("| `")) {
        for quote in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            assert!(logged.contains(quote), "nobody logs {quote:?}");
            quotes += 1;
        }
    }
    assert!(quotes >= 5, "the table is elsewhere");
}

/// The version that manifests and guide name for the project's own images.
#[test]
fn images_are_named_with_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let manifests =
        ["endpoint", "endpoint-scale-out", "import", "worker"].map(|name| format!("docker/kubernetes/{name}.yaml"));
    for path in manifests.iter().map(String::as_str).chain(["docs/deploy.md"]) {
        let text = file(path);
        let tags: Vec<&str> = text
            .split("runpod-worker/")
            .filter_map(|rest| rest.split_whitespace().next()?.split_once(':'))
            .filter_map(|(image, tag)| image.starts_with(|letter: char| letter.is_ascii_lowercase()).then_some(tag))
            .collect();
        assert_eq!(tags, [version], "{path}");
    }
    let renamed = file("docker/kubernetes/kustomization.yaml");
    let endpoint = renamed.lines().find(|line| line.contains("name: runpod-worker/endpoint")).unwrap();
    assert!(endpoint.contains(&format!("newTag: {version}}}")), "{endpoint}");
}

/// Who stops a worker waits for as long as its shutdown may take.
#[test]
fn every_shipped_stop_timeout_is_longer_than_the_drain() {
    let help = run_tool(&binary("runpod-worker").to_string_lossy(), &["run", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let default = |flag: &str| -> u64 {
        let text = help.split_once(flag).unwrap().1.split_once("[default: ").unwrap().1;
        text.split_once("s]").unwrap().0.parse().unwrap()
    };
    let graces: u64 = ["--drain-grace", "--cancel-grace", "--flush-grace"].map(default).iter().sum();
    // Then server, alerts, heartbeat, traces and log sink end, each within seconds, and the handler is reaped.
    let needed = graces + 25;
    for (path, key) in [
        ("docker/kubernetes/worker.yaml", "terminationGracePeriodSeconds: "),
        ("docker/systemd/runpod-worker@.service", "TimeoutStopSec="),
        ("docker/compose.yml", "stop_grace_period: "),
    ] {
        let text = file(path);
        let seconds = text.split_once(key).unwrap_or_else(|| panic!("no {key} in {path}")).1;
        let digits: String = seconds.chars().take_while(char::is_ascii_digit).collect();
        assert!(digits.parse::<u64>().unwrap() >= needed, "{path} gives {digits} s, a shutdown may take {needed} s");
    }
}

#[test]
fn the_hubs_files_have_what_the_hub_requires_and_its_test_passes_here() {
    let hub: Value = serde_json::from_str(&file(".runpod/hub.json")).unwrap();
    for field in ["title", "description", "type", "category", "config"] {
        assert!(!hub[field].is_null(), "hub.json lacks {field}");
    }
    assert_eq!(hub["type"], "serverless");
    assert!(["audio", "embedding", "language", "video", "image"].contains(&hub["category"].as_str().unwrap()));
    for field in ["runsOn", "containerDiskInGb", "gpuCount", "gpuIds"] {
        assert!(!hub["config"][field].is_null(), "hub.json lacks config.{field}");
    }
    for variable in hub["config"]["env"].as_array().unwrap() {
        assert!(
            variable["key"].is_string() && (variable["value"].is_string() || variable["input"]["name"].is_string())
        );
    }

    // The Hub names no target, so it gets the last one; `runsOn` asks for the one with CUDA.
    let dockerfile = file(".runpod/Dockerfile");
    let last = dockerfile.lines().rfind(|line| line.starts_with("FROM ")).unwrap();
    assert_eq!((last, &hub["config"]["runsOn"]), ("FROM worker-base-cuda AS example-cuda", &json!("GPU")));

    let tests: Value = serde_json::from_str(&file(".runpod/tests.json")).unwrap();
    assert!(tests["config"]["gpuTypeId"].is_string() && tests["config"]["gpuCount"].is_u64());
    let (handler, (name, model)) = embeddings();
    for test in tests["tests"].as_array().unwrap() {
        assert!(test["name"].is_string() && test["timeout"].is_u64());
        let job = json!({ "input": test["input"] }).to_string();
        let assignment = format!("{name}={model}");
        let worker = binary("runpod-worker").to_string_lossy().into_owned();
        let handler = handler.to_string_lossy();
        let run = run_tool("env", &[&assignment, &worker, "test", "--test-input", &job, "--", &handler]);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
}
