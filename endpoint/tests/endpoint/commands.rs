//! The client commands, as a user runs them.

use std::process::{Output, Stdio};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use runpod_endpoint::api::{Keys, Options};
use runpod_endpoint::store::{Limits, MemoryStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::support::{Api, SOON};

/// Serves `router` on a free port; the URL of endpoint `ep`.
pub(crate) async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v2/ep", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

pub(crate) fn program() -> tokio::process::Command {
    #[expect(clippy::disallowed_methods, reason = "the test runs the program under test")]
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_runpod-endpoint"));
    for name in ["RUNPOD_API_KEY", "RUNPOD_ENDPOINT_URL", "RUNPOD_ENDPOINT_API_KEY", "RUNPOD_ENDPOINT_WORKER_KEY"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(url: &str, args: &[&str]) -> Output {
    timeout(SOON, program().env("RUNPOD_ENDPOINT_URL", url).args(args).output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A worker that ends its next job with `body`.
fn work(api: &Api, body: &'static str) {
    let api = api.clone();
    tokio::spawn(async move {
        let id = api.take("w1").await;
        api.done("w1", &id, body).await;
    });
}

#[tokio::test]
async fn the_address_alone_is_enough_for_every_command() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let address = url.trim_start_matches("http://").trim_end_matches("/v2/ep");
    let id = text(&run(address, &["submit", "1"]).await.stdout).trim().to_owned();
    for args in [
        &["status", &*id][..],
        &["requests"],
        &["health"],
        &["cancel", &*id],
        &["watch", &*id],
        &["stream", &*id],
        &["purge"],
        &["submit", "2"],
    ] {
        let ended = run("http://127.0.0.1:1", &[args, &["--url", address]].concat()).await;
        let expected = if ["watch", "stream"].contains(&args[0]) { 3 } else { 0 };
        assert_eq!(ended.status.code(), Some(expected), "{args:?}: {}", text(&ended.stderr));
    }
    let retry = run(address, &["retry", &id]).await;
    assert!(text(&retry.stderr).contains("only FAILED"), "{}", text(&retry.stderr));
    let bad = run("ftp://x", &["health"]).await;
    assert_eq!(bad.status.code(), Some(64), "{}", text(&bad.stderr));
    assert!(text(&bad.stderr).contains("/v2/local"), "{}", text(&bad.stderr));
}

#[tokio::test]
async fn submit_prints_the_id_and_sync_prints_the_result() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let submitted = run(&url, &["submit", r#"{"n": 1}"#, "--policy-execution-timeout", "30s"]).await;
    let id = text(&submitted.stdout).trim().to_owned();
    assert_eq!(submitted.status.code(), Some(0));
    let taken = api.get("job-take/w1").await.json();
    assert_eq!((taken["id"].as_str(), &taken["input"]["n"]), (Some(&*id), &serde_json::json!(1)));

    work(&api, r#"{"output": {"a": 1.50}}"#);
    let result = run(&url, &["submit", "--sync", "1"]).await;
    assert_eq!((result.status.code(), text(&result.stdout)), (Some(0), "{\"a\": 1.50}\n".to_owned()));
}

#[tokio::test]
async fn watch_follows_a_job_to_its_end() {
    for (body, code, state) in [(r#"{"output": "done"}"#, 0, "COMPLETED"), (r#"{"error": "no"}"#, 1, "FAILED")] {
        let api = Api::new();
        let url = serve(api.router.clone()).await;
        let id = api.run(r#"{"input": 1}"#).await;
        work(&api, body);
        let watched = run(&url, &["watch", &id]).await;
        assert_eq!(watched.status.code(), Some(code));
        let lines = text(&watched.stdout);
        assert!(lines.lines().any(|line| line.ends_with(state)), "{lines}");
        if code == 0 {
            assert!(lines.ends_with("\ndone\n"), "{lines}");
        } else {
            assert!(text(&watched.stderr).contains("FAILED: no"));
        }
    }
}

#[tokio::test]
async fn cancelled_jobs_have_an_exit_status_of_their_own() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let id = api.run(r#"{"input": 1}"#).await;
    let cancelled = run(&url, &["cancel", &id]).await;
    assert_eq!((cancelled.status.code(), text(&cancelled.stdout)), (Some(0), "CANCELLED\n".to_owned()));
    for command in ["watch", "stream"] {
        assert_eq!(run(&url, &[command, &id]).await.status.code(), Some(3), "{command}");
    }
    let status = run(&url, &["status", "--json", &id]).await;
    assert_eq!(text(&status.stdout), format!("{{\"id\":\"{id}\",\"status\":\"CANCELLED\"}}\n"));
}

#[tokio::test]
async fn stream_prints_items_line_by_line() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    for item in ["\"text\"", "{\"i\": 1}"] {
        api.post(&format!("job-stream/w1/{id}"), format!(r#"{{"output": {item}}}"#)).await;
    }
    api.done("w1", &id, "{}").await;
    let streamed = run(&url, &["stream", &id]).await;
    assert_eq!((streamed.status.code(), text(&streamed.stdout)), (Some(0), "text\n{\"i\": 1}\n".to_owned()));
}

#[tokio::test]
async fn watch_shows_progress_and_on_request_the_stream() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    let mut child = program().env("RUNPOD_ENDPOINT_URL", &url).args(["watch", "--stream", &id]).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = async |end: &str| {
        timeout(SOON, async { while !lines.next_line().await.unwrap().unwrap().ends_with(end) {} }).await.unwrap();
    };
    until("IN_PROGRESS").await;
    api.post(&format!("job-done/w1/{id}?isStream=false"), r#"{"status": "IN_PROGRESS", "output": "half"}"#).await;
    until("progress     half").await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": {"n": 1.50}}"#).await;
    until(r#"item         {"n": 1.50}"#).await;
    api.done("w1", &id, r#"{"output": "all"}"#).await;
    until("COMPLETED").await;
    until("all").await;
    assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn watch_as_json_is_one_document_a_line() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.post(&format!("job-stream/w1/{id}"), r#"{"output": 1.50}"#).await;
    api.done("w1", &id, r#"{"output": 2}"#).await;
    let watched = text(&run(&url, &["watch", "--json", "--stream", &id]).await.stdout);
    let lines: Vec<serde_json::Value> = watched.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(watched.contains(r#""item":1.50"#), "{watched}");
    assert_eq!((&lines[1]["status"], &lines[2]["output"]), (&serde_json::json!("COMPLETED"), &serde_json::json!(2)));
}

#[tokio::test]
async fn health_is_watched_line_by_line_over_an_outage() {
    let answers = std::sync::Arc::new(std::sync::Mutex::new(vec![
        "{\"jobs\":{\"inQueue\":2}}",
        "",
        "{\"jobs\":{\"inQueue\":1}}",
    ]));
    let answer = move || async move {
        let mut answers = answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0] };
        let status = if answer.is_empty() { 503 } else { 200 };
        (axum::http::StatusCode::from_u16(status).unwrap(), answer)
    };
    let url = serve(Router::new().route("/v2/ep/health", get(answer))).await;
    let args = ["health", "--watch", "--interval", "100ms"];
    let mut child = program().env("RUNPOD_ENDPOINT_URL", &url).args(args).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(next().await.ends_with("Z  jobs: inQueue 1"));
    assert!(next().await.ends_with("Z  jobs: inQueue 2"));
    child.kill().await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(text(&output.stderr).matches("trying again").count(), 1, "{}", text(&output.stderr));
}

#[tokio::test]
async fn jobs_are_listed_purged_and_queued_again() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let failed = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.done("w1", &failed, r#"{"error": "no"}"#).await;
    assert_eq!(text(&run(&url, &["retry", &failed]).await.stdout), "IN_QUEUE\n");
    assert_eq!(text(&run(&url, &["requests"]).await.stdout), format!("{failed}  IN_QUEUE\n"));
    assert_eq!(text(&run(&url, &["purge"]).await.stdout), "CANCELLED: 1\n");
    let refused = run(&url, &["retry", &failed]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("only FAILED and TIMED_OUT"), "{}", text(&refused.stderr));
}

#[tokio::test]
async fn a_probe_passes_on_what_the_server_answers() {
    let routes = Router::new()
        .route("/live", get(|| async { "fine" }))
        .route("/ready", get(|| async { (axum::http::StatusCode::SERVICE_UNAVAILABLE, "the disk is full") }));
    let url = serve(routes).await;
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let probe = async |args: &[&str]| {
        let output = program().arg("probe").args(args).output().await.unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(probe(&["--bind", address]).await, (Some(0), "fine\n".to_owned(), String::new()));
    let (code, _, refused) = probe(&["ready", "--bind", address]).await;
    assert_eq!(code, Some(1));
    assert!(refused.contains("503 Service Unavailable: the disk is full"), "{refused}");
    let (code, _, nobody) = probe(&["--bind", "127.0.0.1:1"]).await;
    assert_eq!(code, Some(1));
    assert!(nobody.contains("no endpoint answers at 127.0.0.1:1") && nobody.contains("--bind"), "{nobody}");
}

#[tokio::test]
async fn top_wants_a_terminal() {
    let output = run("http://127.0.0.1:1/v2/ep", &["top"]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("health --watch"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn input_comes_from_standard_input_too() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let mut child = program().args(["submit", "--input", "-", "--url", &url]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"input\": [1]}").await.unwrap();
    let output = timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(api.get("job-take/w1").await.json()["input"], serde_json::json!([1]));
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    let answer = |headers: axum::http::HeaderMap| async move {
        let key = headers.get("authorization").and_then(|key| key.to_str().ok()).unwrap_or_default();
        let status = if key == "Bearer s3cret" { 500 } else { 401 };
        (axum::http::StatusCode::from_u16(status).unwrap(), "no")
    };
    let url = serve(Router::new().route("/v2/ep/health", get(answer))).await;
    let failed = run(&url, &["health", "--api-key", "s3cret"]).await;
    let shown = text(&failed.stderr) + &text(&failed.stdout);
    assert_eq!(failed.status.code(), Some(1));
    assert!(shown.contains("answered 500") && !shown.contains("s3cret"), "{shown}");
    let refused = text(&run(&url, &["health"]).await.stderr);
    assert!(refused.contains("RUNPOD_API_KEY"), "{refused}");
}

#[tokio::test]
async fn mistakes_have_their_exit_status_and_a_fix() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["submit", "x=1"], 64, "not JSON"),
        (&["submit"], 64, "--input"),
        (&["serve", "--bind", "0.0.0.0:0"], 64, "--api-key"),
        (&["serve", "--bind", "127.0.0.1:0", "--api-key", "k"], 64, "leaves the worker API open"),
        (&["serve", "--max-result-mib", "1000"], 64, "--max-request-memory-mib"),
        (&["dev", "--worker-bin", "/no/such", "--", "handler"], 64, "--worker-bin /no/such"),
    ];
    for (args, code, fix) in cases {
        let output = run("http://127.0.0.1:1/v2/ep", args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(text(&output.stderr).contains(fix), "{args:?}: {}", text(&output.stderr));
    }
    let absent = run("http://127.0.0.1:1/v2/ep", &["health"]).await;
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("--url"));
}

#[tokio::test]
async fn ids_that_runpod_reserves_are_refused() {
    for id in ["serverless", "pods", "flash"] {
        let refused = run("", &["serve", "--endpoint-id", id]).await;
        assert_ne!(refused.status.code(), Some(0));
        assert!(text(&refused.stderr).contains("RunPod uses this name"), "{refused:?}");
    }
}

#[tokio::test]
async fn an_endpoint_is_paused_and_resumed() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let paused = run(&url, &["pause"]).await;
    assert!(text(&paused.stdout).starts_with("PAUSED"), "{}", text(&paused.stdout));
    assert!(text(&paused.stdout).contains("a load balancer refuses requests"), "{}", text(&paused.stdout));
    let id = api.run(r#"{"input": 1}"#).await;
    let load = api.app.store.load("ep").await.unwrap();
    assert_eq!((load.waiting, api.get("health").await.json()["paused"].as_bool()), (0, Some(true)));
    let poll = tokio::spawn({
        let api = api.clone();
        async move { api.take("w1").await }
    });
    assert_eq!(text(&run(&url, &["resume", "--json"]).await.stdout), "{\"paused\":false}\n");
    assert_eq!(timeout(SOON, poll).await.unwrap().unwrap(), id);
    assert!(api.get("health").await.json().get("paused").is_none(), "RunPod's document");
}

#[tokio::test]
async fn failed_jobs_are_listed_and_all_of_them_retried() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let mut failed = Vec::new();
    for (number, body) in
        [r#"{"error": "one\nand more"}"#, r#"{"output": 1}"#, r#"{"error": "three"}"#].iter().enumerate()
    {
        let (id, worker) = (api.run(r#"{"input": 1}"#).await, format!("w{number}"));
        assert_eq!(api.take(&worker).await, id);
        api.done(&worker, &id, body).await;
        if body.contains("error") {
            failed.insert(0, id);
        }
    }
    let listed = text(&run(&url, &["failed"]).await.stdout);
    assert_eq!(listed, format!("{}  FAILED  three\n{}  FAILED  one\n", failed[0], failed[1]));
    let page = api.get("failed?limit=1").await.json();
    assert_eq!(
        (&page["total"], &page["hasMore"], &page["jobs"][0]["id"]),
        (&2.into(), &true.into(), &failed[0].clone().into())
    );
    for bad in ["limit=0", "limit=x", "offset=-1"] {
        assert_eq!(api.get(&format!("failed?{bad}")).await.status.as_u16(), 400, "{bad}");
    }
    assert_eq!(text(&run(&url, &["retry", "--all-failed"]).await.stdout), "IN_QUEUE: 2\n");
    assert_eq!(text(&run(&url, &["failed"]).await.stdout), "");
    assert_eq!(run(&url, &["retry"]).await.status.code(), Some(64), "a job, or all that failed");
}

#[tokio::test]
async fn failed_jobs_that_do_not_fit_into_the_queue_are_left_with_the_reason() {
    let limits = Limits { max_queued: Some(2), ..Limits::default() };
    let api = Api::build(Keys::default(), Options::default(), MemoryStore::new(limits));
    let url = serve(api.router.clone()).await;
    for worker in ["w1", "w2", "w3"] {
        let id = api.run(r#"{"input": 1}"#).await;
        api.take(worker).await;
        api.done(worker, &id, r#"{"error": "no"}"#).await;
    }
    let some = run(&url, &["retry", "--all-failed"]).await;
    assert_eq!((some.status.code(), text(&some.stdout)), (Some(1), "IN_QUEUE: 2\n".to_owned()));
    let why = text(&some.stderr);
    assert!(why.starts_with("1 failed jobs are left: ") && why.contains("max_queued"), "{why}");
    let none = run(&url, &["retry", "--all-failed", "--json"]).await;
    let why = text(&none.stderr);
    assert_eq!((none.status.code(), text(&none.stdout)), (Some(1), String::new()));
    assert!(why.contains("429") && why.contains("1 are left") && why.contains("max_queued"), "{why}");
    let request = Request::post("/v2/ep/retry-failed").body(Body::empty()).unwrap();
    let reply = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(reply.headers()["retry-after"], "5");
    api.take("w1").await;
    let rest = api.post("retry-failed", "").await;
    assert_eq!(rest.json(), serde_json::json!({"left": 0, "retried": 1}));
}

#[tokio::test]
async fn a_url_that_names_no_endpoint_is_answered_with_one_that_does() {
    let api = Api::new();
    let base = serve(api.router.clone()).await.replace("/v2/ep", "");
    for args in [&["submit", "1"][..], &["health"], &["batch", "list"], &["retry", "--all-failed"]] {
        let refused = run(&format!("{base}/ep"), args).await;
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(error.contains("404") && error.contains(&format!("such as {base}/v2/ep")), "{args:?}: {error}");
    }
    for path in ["/v2/ep/run", "/v2/ep/openai/v1", "/v2/ep/"] {
        let health = run(&format!("{base}{path}"), &["health"]).await;
        assert_eq!(health.status.code(), Some(0), "{path}: {}", text(&health.stderr));
    }
    let unknown = text(&run(&format!("{base}/v2/ep"), &["status", "unknown"]).await.stderr);
    assert!(unknown.contains("job not found") && !unknown.contains("--url"), "{unknown}");
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let id = text(&run(&url, &["submit", "1"]).await.stdout).trim().to_owned();
    let batch = api.post("batch", r#"[{"input": 1}]"#).await.field("id");
    for args in [
        &["--help"][..],
        &["submit", "1"],
        &["status", &*id],
        &["requests"],
        &["health"],
        &["batch", "list"],
        &["batch", "status", &*batch],
        &["batch", "results", &*batch],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let command = || {
            let mut command = program();
            command.env("RUNPOD_ENDPOINT_URL", &url).args(args);
            command
        };
        let ended = timeout(SOON, command().stdout(full).spawn().unwrap().wait_with_output()).await.unwrap().unwrap();
        let said = text(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains("No space left on device"), "{args:?}: {said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = timeout(SOON, command().stdout(writer).spawn().unwrap().wait_with_output()).await.unwrap().unwrap();
        assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), String::new()), "{args:?}");
    }
}
