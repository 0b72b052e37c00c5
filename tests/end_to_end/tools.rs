//! The commands that a handler author uses, and the client commands.

use std::process::Output;

use end_to_end_tests::{Daemon, Stack, WorkerOptions, binary, eventually, free_port, run_tool, run_tool_in};
use serde_json::{Value, json};

fn worker(args: &[&str]) -> Output {
    run_tool(&binary("runpod-worker").to_string_lossy(), args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs one job from a file through `runpod-worker test`.
fn test_job(handler: &str, job: &Value) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.json");
    std::fs::write(&file, job.to_string()).unwrap();
    let handler = binary(handler);
    worker(&["test", "--input", &file.to_string_lossy(), "--", &handler.to_string_lossy()])
}

#[test]
fn test_runs_one_job_and_prints_its_result() {
    let run = test_job("echo", &json!({"input": {"text": "hello"}}));
    assert!(run.status.success(), "{}", text(&run.stderr));
    let result: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(result["output"], json!({"text": "hello"}));
    assert!(text(&run.stderr).contains("peak memory"), "{}", text(&run.stderr));

    let run = test_job("echo", &json!({"input": {"text": 3}}));
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("input.text"), "{}", text(&run.stderr));

    let run = worker(&["test", "--input", "no/such/file.json", "--", &binary("echo").to_string_lossy()]);
    assert_eq!(run.status.code(), Some(64));
    assert!(text(&run.stderr).contains("no/such/file.json"), "{}", text(&run.stderr));
}

/// In a folder with a `test_input.json`, as RunPod's own worker is tried.
#[test]
fn without_a_queue_one_local_job_is_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("test_input.json"), r#"{"input": {"text": "file"}}"#).unwrap();
    let path = |program: &str| binary(program).to_string_lossy().into_owned();
    let (worker, handler) = (path("runpod-worker"), path("echo"));
    let run = |args: &[&str]| {
        let run = run_tool_in(folder.path(), &worker, &[args, &["--", &handler]].concat());
        assert!(run.status.success(), "{}", text(&run.stderr));
        // `run` logs to standard output, as it does on the platform.
        let printed = text(&run.stdout);
        let result = serde_json::Deserializer::from_str(&printed[printed.find("{\n").unwrap()..]).into_iter::<Value>();
        let result = result.flatten().next().unwrap_or_else(|| panic!("{printed}"));
        (result["id"].clone(), result["output"]["text"].clone())
    };
    assert_eq!(run(&["run"]), (json!("local_test"), json!("file")));
    assert_eq!(run(&["test"]), (json!("local_test"), json!("file")));
    let given = r#"{"id": "mine", "input": {"text": "flag"}}"#;
    assert_eq!(run(&["test", "--test_input", given]), (json!("mine"), json!("flag")));
    // As a Python worker is tried, also where there is a queue.
    assert_eq!(run(&["run", "--rp_log_level", "INFO", "--test_input", given]), (json!("mine"), json!("flag")));
}

/// What cannot succeed is tried once, and what is wrong with device or handler is known before the model is loaded.
#[test]
fn test_makes_the_checks_first_and_tries_nothing_twice() {
    let failing = |variable: &str| {
        let (worker, handler) = (binary("runpod-worker"), binary("puppet-handler"));
        let job = r#"{"input": {"do": "ok"}}"#;
        let worker = worker.to_string_lossy();
        let run = run_tool("env", &[variable, &worker, "test", "--test-input", job, "--", &handler.to_string_lossy()]);
        assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
        text(&run.stderr)
    };
    let said = failing("PUPPET_CHECK=fail");
    assert!(said.contains("unset PUPPET_CHECK"), "{said}");
    let said = failing("PUPPET_START=load_fail");
    assert!(said.contains("the model could not be loaded") && !said.contains("It is started again"), "{said}");
}

/// The API of a Python worker that is started with `--rp_serve_api`.
#[tokio::test(flavor = "multi_thread")]
async fn the_local_api_of_a_python_worker_runs_jobs() {
    let port = free_port().to_string();
    let handler = binary("echo").to_string_lossy().into_owned();
    let args = ["run", "--rp_serve_api", "--rp_api_port", &port, "--http-bind", "none", "--", &handler];
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let env = [("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS".to_owned(), "true".to_owned())];
    let worker = Daemon::start("worker", &binary("runpod-worker"), &args, &env);
    let url = |route: &str| format!("http://127.0.0.1:{port}{route}");
    let client = reqwest::Client::new();
    let job = json!({"input": {"text": "hello"}});
    let answer = eventually("the API to answer", || async {
        client.post(url("/runsync")).json(&job).send().await.ok()?.json::<Value>().await.ok()
    })
    .await;
    assert_eq!((&answer["status"], &answer["output"]["text"]), (&json!("COMPLETED"), &json!("hello")), "{answer}");
    let elsewhere = client.post(url("/run")).json(&job).send().await.unwrap();
    assert_eq!(elsewhere.status(), 404);
    assert!(elsewhere.text().await.unwrap().contains("runpod-endpoint dev"));
    worker.logs("runpod-endpoint dev").await;
}

#[test]
fn test_prints_the_items_of_a_stream() {
    let run = test_job("puppet-handler", &json!({"input": {"do": "stream", "n": 3}}));
    assert!(run.status.success(), "{}", text(&run.stderr));
    let result: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(result["stream"].as_array().map(Vec::len), Some(3), "{result}");
}

#[test]
fn schema_prints_what_the_types_say() {
    let run = worker(&["schema", "--", &binary("echo").to_string_lossy()]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let manifest: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(manifest["name"], "echo");
    assert_eq!(manifest["input_schema"]["required"], json!(["text"]));
}

#[test]
fn check_config_prints_effective_values_without_secrets() {
    let handler = binary("echo");
    let run = run_tool(
        "env",
        &[
            "RUNPOD_AI_API_KEY=very-secret-key",
            "RUNPOD_WEBHOOK_GET_JOB=http://127.0.0.1:9/v2/x/job-take/$ID",
            "RUNPOD_WEBHOOK_POST_OUTPUT=http://127.0.0.1:9/v2/x/job-done/$RUNPOD_POD_ID/$ID",
            "RUNPOD_WORKER_JOB_TIMEOUT=90s",
            &binary("runpod-worker").to_string_lossy(),
            "run",
            "--check-config",
            "--",
            &handler.to_string_lossy(),
        ],
    );
    let printed = text(&run.stdout) + &text(&run.stderr);
    assert!(run.status.success(), "{printed}");
    assert!(printed.contains("90s") || printed.contains("1m 30s"), "{printed}");
    assert!(!printed.contains("very-secret-key"), "{printed}");
}

#[test]
fn a_handler_started_by_hand_says_how_to_start_it() {
    let run = run_tool(&binary("echo").to_string_lossy(), &[]);
    assert_eq!(run.status.code(), Some(64));
    assert!(text(&run.stderr).contains("runpod-endpoint dev"), "{}", text(&run.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_commands_speak_to_an_endpoint() {
    let stack = Stack::start("echo", WorkerOptions::default()).await;
    let url = format!("{}/test", stack.endpoint.base);
    let endpoint = binary("runpod-endpoint").to_string_lossy().into_owned();
    let client = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--url", &url]);
        run_tool(&endpoint, &all)
    };
    let submitted = client(&["submit", r#"{"text": "hello"}"#]);
    assert!(submitted.status.success(), "{}", text(&submitted.stderr));
    let id = text(&submitted.stdout).trim().to_owned();

    let watched = client(&["watch", &id]);
    assert!(watched.status.success(), "{}", text(&watched.stderr));
    assert!(text(&watched.stdout).contains("COMPLETED") && text(&watched.stdout).contains("hello"));

    let status: Value = serde_json::from_slice(&client(&["status", &id, "--json"]).stdout).unwrap();
    assert_eq!(status["status"], "COMPLETED");

    let failed = client(&["submit", r#"{"text": 3}"#, "--watch"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stdout));

    let health = client(&["health", "--json"]);
    let health: Value = serde_json::from_slice(&health.stdout).unwrap();
    assert_eq!(health["jobs"]["completed"], 1);
}
