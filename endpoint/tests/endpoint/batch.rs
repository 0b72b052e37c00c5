//! RunPod's batch API, as its clients see it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::{Method, Request};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, post};
use end_to_end_tests::eventually;
use runpod_endpoint::api::{Keys, Options};
use runpod_endpoint::store::{Limits, MemoryStore};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::commands::{program, serve};
use crate::support::{Api, Reply, SOON};

fn inputs(numbers: std::ops::Range<usize>) -> Vec<Value> {
    numbers.map(|number| json!({"input": {"n": number}})).collect()
}

async fn create(api: &Api, requests: Vec<Value>) -> String {
    let reply = api.post("batch", Value::from(requests).to_string()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.field("id")
}

/// A finalized batch.
async fn submit(api: &Api, requests: Vec<Value>) -> String {
    let id = create(api, requests).await;
    let reply = api.post(&format!("batch/{id}/finalize"), "").await;
    assert_eq!((reply.status, reply.field("status")), (StatusCode::OK, "FINALIZED".to_owned()));
    id
}

async fn request(api: &Api, method: Method, path: &str, body: Value) -> Reply {
    let request = Request::builder().method(method).uri(format!("/v2/ep/{path}"));
    api.send(request.body(body.to_string().into()).unwrap()).await
}

async fn summary(api: &Api, id: &str) -> Value {
    api.get(&format!("batch/{id}")).await.json()
}

async fn requests(api: &Api, id: &str) -> Vec<Value> {
    api.get(&format!("batch/{id}/requests?limit=1000")).await.json()["requests"].as_array().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_a_draft_until_it_is_finalized() {
    let api = Api::new();
    let reply = api.post("batch", "[]").await.json();
    let id = reply["id"].as_str().unwrap().to_owned();
    assert_eq!(reply, json!({"id": id, "status": "DRAFT"}));
    for (body, part) in [("{}", "array"), ("[{}]", "request 0: `input` is missing"), ("", "array"), ("[1]", "array")] {
        let refused = api.post("batch", body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(refused.field("error").contains(part), "{}", refused.text);
    }
    assert_eq!(api.post(&format!("batch/{id}/finalize"), "").await.status, StatusCode::BAD_REQUEST, "it is empty");
    let add = format!("batch/{id}/requests");
    let added = api.post(&add, json!({"requests": inputs(0..2)}).to_string()).await.json();
    assert_eq!((&added["requestTotal"], added["requestIds"].as_array().unwrap().len()), (&json!(2), 2));
    api.post(&add, json!({"requests": inputs(2..3)}).to_string()).await;
    let large = json!({"requests": [{"input": "x".repeat(10 << 20)}]}).to_string();
    assert_eq!(api.post(&add, large).await.field("detail"), "bad request: body: exceeded max body size of 10MiB");
    assert_eq!(
        api.post(&add, json!({"requests": [{"input": 1}, {}]}).to_string()).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(summary(&api, &id).await["requestTotal"], 3);
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 0, "nothing of a draft waits for a worker");

    let first = requests(&api, &id).await[0]["id"].as_str().unwrap().to_owned();
    let removed = request(&api, Method::DELETE, &format!("{add}/{first}"), Value::Null).await;
    assert_eq!(removed.json()["requestTotal"], 2);
    let named = request(&api, Method::PUT, &format!("batch/{id}"), json!({"name": "nightly"})).await.json();
    assert_eq!(named["name"], "nightly");

    api.post(&format!("batch/{id}/finalize"), "").await;
    for refused in [
        api.post(&add, json!({"requests": inputs(0..1)}).to_string()).await,
        request(
            &api,
            Method::DELETE,
            &format!("{add}/{}", requests(&api, &id).await[0]["id"].as_str().unwrap()),
            Value::Null,
        )
        .await,
        api.post(&format!("batch/{id}/finalize"), "").await,
    ] {
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text);
    }
    let end = summary(&api, &id).await;
    assert_eq!(
        (&end["status"], &end["requestTotal"], &end["endpointId"]),
        (&json!("FINALIZED"), &json!(2), &json!("ep"))
    );
    assert!(end["createdAt"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(api.get("batch/unknown").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn an_array_is_no_object() {
    let api = Api::new();
    let batch = create(&api, Vec::new()).await;
    for (path, body) in [
        ("run", r#"[{"a": 1}]"#),
        ("run", r#"{"input": 1, "policy": [6000, 20000, true]}"#),
        ("batch", r#"[[{"a": 1}]]"#),
        ("batch", r#"[{"input": 1, "policy": [6000, 20000, true]}]"#),
        (&*format!("batch/{batch}/requests"), r#"[[{"input": 1}]]"#),
        (&*format!("batch/{batch}/requests"), r#"{"requests": [[{"a": 1}]]}"#),
        ("openai/v1/completions", "[true]"),
        ("hand-back/w", r#"[["a"]]"#),
    ] {
        let refused = api.post(path, body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path} {body}: {}", refused.text);
        assert!(refused.text.contains("expected an object"), "{path} {body}: {}", refused.text);
    }
    let refused = request(&api, Method::PUT, &format!("batch/{batch}"), json!(["name"])).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
    let whole = r#"{"input": 1, "policy": null}"#;
    assert_eq!(api.post("run", whole).await.status, StatusCode::OK, "no policy is none");
}

#[tokio::test(start_paused = true)]
async fn results_and_errors_are_read_in_pages() {
    let api = Api::new();
    let other = api.run(r#"{"input": 0}"#).await;
    let id = submit(&api, inputs(0..5)).await;
    let job = api.get("job-take/w").await.json();
    assert_eq!((job["id"].as_str(), job.get("batchId")), (Some(&*other), None), "a job of /run comes first");
    for number in 0..5 {
        let job = api.get("job-take/w").await.json();
        assert_eq!((job["batchId"].as_str(), &job["input"]["n"]), (Some(&*id), &json!(number)));
        let body = if number == 3 { r#"{"error": "bad", "output": 1}"# } else { r#"{"output": {"y": 2.50}}"# };
        api.done("w", job["id"].as_str().unwrap(), body).await;
    }
    let end = summary(&api, &id).await;
    let counts = ["requestTotal", "requestInProgress", "requestCompleted", "requestFailed"]
        .map(|name| end[name].as_u64().unwrap());
    assert_eq!((end["status"].as_str(), counts), (Some("FINALIZED"), [5, 0, 4, 1]));
    let mut seen = HashSet::new();
    for (offset, expected, has_more) in [(0, 2, true), (2, 2, true), (4, 1, false)] {
        let text = api.get(&format!("batch/{id}/requests?offset={offset}&limit=2")).await.text;
        let page: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((page["total"].as_u64(), page["hasMore"].as_bool()), (Some(5), Some(has_more)), "{text}");
        let found = page["requests"].as_array().unwrap();
        assert_eq!(found.len(), expected);
        for entry in found {
            let is_bad = entry["status"] == "FAILED";
            assert_eq!((entry.get("error").is_some(), entry.get("output").is_none()), (is_bad, is_bad), "{entry}");
            for time in ["startedAt", "completedAt"] {
                humantime::parse_rfc3339(entry[time].as_str().unwrap()).unwrap();
            }
            seen.insert(entry["id"].as_str().unwrap().to_owned());
        }
        assert!(text.contains("2.50"), "payloads are not re-encoded: {text}");
    }
    assert_eq!(seen.len(), 5);
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    assert_eq!(requests(&api, &id).await.len(), 5, "results outlive those of /run");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_batch_lets_running_requests_end() {
    let api = Api::new();
    let id = submit(&api, inputs(0..3)).await;
    let running = api.take("w").await;
    let times = requests(&api, &id).await;
    assert!(times[0].get("startedAt").is_some() && times[0].get("completedAt").is_none(), "{times:?}");
    assert!(times[1].get("startedAt").is_none() && times[1].get("completedAt").is_none(), "{times:?}");
    let reply = api.post(&format!("batch/{id}/cancel"), "").await.json();
    assert_eq!(
        (&reply["status"], &reply["requestInProgress"], &reply["requestCancelled"]),
        (&json!("FINALIZED"), &json!(1), &json!(2))
    );
    assert_eq!(api.state(&running).await, "IN_PROGRESS");
    api.done("w", &running, r#"{"output": 1}"#).await;
    let end = summary(&api, &id).await;
    assert_eq!((&end["status"], &end["requestCompleted"]), (&json!("CANCELLED"), &json!(1)));
    assert_eq!(api.post(&format!("batch/{id}/cancel"), "").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_has_ended_cannot_be_cancelled() {
    let api = Api::new();
    let id = submit(&api, inputs(0..1)).await;
    let job = api.take("w").await;
    api.done("w", &job, r#"{"output": 1}"#).await;
    let refused = api.post(&format!("batch/{id}/cancel"), "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.field("error").contains("has ended"), "{}", refused.text);
    assert_eq!(summary(&api, &id).await["status"], "FINALIZED");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_keeps_no_other_job_out() {
    let limits = Limits { max_queued: Some(1), ..Limits::default() };
    let api = Api::build(Keys::default(), Options::default(), MemoryStore::new(limits));
    submit(&api, inputs(0..5)).await;
    api.run(r#"{"input": 1}"#).await;
    let refused = api.post("run", r#"{"input": 1}"#).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.field("error").contains("allows 1 "), "{}", refused.text);
}

#[tokio::test(start_paused = true)]
async fn batches_are_listed_newest_first_and_have_limits() {
    let limits = Limits { max_batches: 2, max_batch_requests: 3, ..Limits::default() };
    let api = Api::build(Keys::default(), Options::default(), MemoryStore::new(limits));
    let (first, second) = (create(&api, Vec::new()).await, create(&api, inputs(0..3)).await);
    let list = api.get("batch").await.json();
    assert_eq!(
        (&list["batches"][0]["id"], &list["batches"][1]["id"], &list["total"]),
        (&json!(second), &json!(first), &json!(2))
    );
    let third = api.post("batch", "[]").await;
    assert!(third.status.is_client_error() && third.field("error").contains("--max-batches"), "{}", third.text);
    let fourth = api.post(&format!("batch/{second}/requests"), json!({"requests": inputs(0..1)}).to_string()).await;
    assert!(fourth.status.is_client_error() && fourth.field("error").contains("at most 3"), "{}", fourth.text);
    assert_eq!(summary(&api, &second).await["requestTotal"], 3);
    let defaults = Limits::default();
    assert_eq!((defaults.max_batches, defaults.max_batch_requests), (10, 5000), "as on the platform");
}

#[tokio::test]
async fn a_file_of_inputs_is_submitted_followed_and_answered_in_order() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inputs.jsonl");
    // As editors and shells of other systems write it.
    let lines = "\u{feff}{\"n\": 0}\r\n\r\n\u{feff}{\"input\": {\"n\": 1}, \"policy\": {\"ttl\": 20000}}\r\n2\r\n\r\n \n\u{feff}";
    std::fs::write(&file, lines).unwrap();
    let worker = tokio::spawn({
        let api = api.clone();
        async move {
            for _ in 0..3 {
                let job = api.get("job-take/w").await.json();
                let body = match &job["input"] {
                    Value::Number(_) => json!({"error": "a number"}),
                    input => json!({"output": input["n"]}),
                };
                api.done("w", job["id"].as_str().unwrap(), &body.to_string()).await;
            }
        }
    });
    let mut submit = program();
    submit.env("RUNPOD_ENDPOINT_URL", &url).args(["batch", "submit", "--name", "nightly"]).arg(&file);
    let submitted = timeout(SOON, submit.output()).await.unwrap().unwrap();
    worker.await.unwrap();
    let (out, err) = (String::from_utf8(submitted.stdout).unwrap(), String::from_utf8(submitted.stderr).unwrap());
    assert_eq!(submitted.status.code(), Some(1), "one has failed: {err}");
    let results: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&results[0]["output"], &results[1]["output"], &results[2]["error"]),
        (&json!(0), &json!(1), &json!("a number"))
    );
    assert!(err.contains("3/3 sent") && err.contains("3/3 ended"), "{err}");
    let mut list = program();
    list.env("RUNPOD_ENDPOINT_URL", &url).args(["batch", "list"]);
    let listed = String::from_utf8(timeout(SOON, list.output()).await.unwrap().unwrap().stdout).unwrap();
    assert!(listed.contains("FINALIZED  3/3 ended, 0 in progress, 1 failed  nightly"), "{listed}");

    for (text, part) in [
        (&b"{\"n\": 0}\nno json\n"[..], "line 2 is not JSON"),
        (b"\n", "has no inputs"),
        (b"\xef\xbb\xbf", "has no inputs"),
        (b"\xff\xfe{\0\"\0", "not UTF-8"),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut submit = program();
        submit.env("RUNPOD_ENDPOINT_URL", &url).args(["batch", "submit"]).arg(&file);
        let refused = timeout(SOON, submit.output()).await.unwrap().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(64) && error.contains(part), "{error}");
    }
    assert_eq!(api.get("batch").await.json()["total"], 1, "nothing was created for a bad file");
    let with_mistake = "\n{\"n\": 0}\n\n{\"input\": 1, \"policy\": {\"ttl\": 1}}\n";
    std::fs::write(&file, with_mistake).unwrap();
    let mut submit = program();
    submit.env("RUNPOD_ENDPOINT_URL", &url).args(["batch", "submit"]).arg(&file);
    let refused = timeout(SOON, submit.output()).await.unwrap().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("line 4: policy.ttl is 1"), "{error}");
}

#[tokio::test]
async fn a_batch_with_a_cancelled_request_is_no_success() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inputs.jsonl");
    std::fs::write(&file, "1\n").unwrap();
    let mut submit = program();
    let submit = submit.env("RUNPOD_ENDPOINT_URL", &url).args(["batch", "submit"]).arg(&file).spawn().unwrap();
    let id = eventually("the request is queued", async || {
        let batch = api.get("batch").await.json()["batches"][0].clone();
        let id = (batch["status"] == "FINALIZED").then(|| batch["id"].as_str().unwrap().to_owned())?;
        Some(requests(&api, &id).await[0]["id"].as_str().unwrap().to_owned())
    })
    .await;
    api.post(&format!("cancel/{id}"), "").await;
    let ended = timeout(SOON, submit.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("0 failed, 1 cancelled"), "{said}");
}

/// `batch results` of a finalized batch of ten requests, where the endpoint answers a question for a page with a limit only if
/// `answers` says so. Its exit status, its output and what it says.
async fn results_where(
    answers: impl Fn(usize) -> bool + Clone + Send + Sync + 'static,
) -> (Option<i32>, String, String) {
    let api = Api::new();
    let id = submit(&api, inputs(0..10)).await;
    let refuse = from_fn(move |request: Request<Body>, next: Next| {
        let limit = request.uri().query().and_then(|query| query.split_once("limit=")?.1.parse().ok());
        let is_answered = limit.is_none_or(&answers);
        async move { if is_answered { next.run(request).await } else { StatusCode::SERVICE_UNAVAILABLE.into_response() } }
    });
    let url = serve(api.router.clone().layer(refuse)).await;
    let mut results = program();
    results.env("RUNPOD_ENDPOINT_URL", &url).args(["batch", "results", &id]);
    let ended = timeout(SOON, results.output()).await.unwrap().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap().replace(&id, "ID");
    (ended.status.code(), String::from_utf8(ended.stdout).unwrap(), said)
}

#[tokio::test]
async fn results_come_in_smaller_pages_where_larger_ones_do_not_fit() {
    let (exit, printed, said) = results_where(|limit| limit <= 3).await;
    assert_eq!((exit, printed.lines().count(), &*said), (Some(0), 10, ""));
}

#[tokio::test]
async fn a_request_for_results_that_fails_is_repeated() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (exit, printed, said) = results_where(move |limit| limit == 1 && asked.fetch_add(1, Relaxed) != 4).await;
    assert_eq!((exit, printed.lines().count()), (Some(0), 10), "{said}");
    assert!(said.contains("trying again"), "{said}");
}

/// Sends signals to a `batch submit` that has said `word`, each once it `is_time` for it. Its exit status, and what it says then.
async fn interrupted(
    url: &str,
    word: &str,
    signals: &[Signal],
    is_time: impl AsyncFn(usize) -> bool,
) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inputs.jsonl");
    std::fs::write(&file, "1\n2\n").unwrap();
    let mut submit = program();
    let mut submit = submit.env("RUNPOD_ENDPOINT_URL", url).args(["batch", "submit"]).arg(&file).spawn().unwrap();
    let mut said = BufReader::new(submit.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        timeout(SOON, said.read_line(&mut line)).await.unwrap().unwrap();
    }
    let id = rustix::process::Pid::from_raw(submit.id().unwrap().cast_signed()).unwrap();
    for (number, signal) in signals.iter().enumerate() {
        eventually("the time to interrupt it", async || is_time(number).await.then_some(())).await;
        rustix::process::kill_process(id, *signal).unwrap();
    }
    let mut rest = String::new();
    timeout(SOON, said.read_to_string(&mut rest)).await.unwrap().unwrap();
    (timeout(SOON, submit.wait()).await.unwrap().unwrap().code(), rest)
}

#[tokio::test]
async fn an_interrupted_submission_leaves_no_draft_and_says_how_to_go_on() {
    let api = Api::new();
    // Requests are never added: the batch stays a draft.
    let (added, adds) = silent();
    let stuck = Router::new().route("/v2/ep/batch/{id}/requests", added);
    let url = serve(stuck.fallback_service(api.router.clone())).await;
    let batches = async || api.get("batch").await.json()["batches"].clone();
    for (number, signal) in [Signal::INT, Signal::HUP].into_iter().enumerate() {
        // Not while the batch is made: then its id is not known yet.
        let is_draft = async |_| adds.load(Relaxed) > number;
        let (exit, said) = interrupted(&url, "", &[signal], is_draft).await;
        assert_eq!((exit, &batches().await[0]["status"]), (Some(3), &json!("CANCELLED")), "{said}");
        assert!(said.contains("the batch is cancelled"), "{said}");
    }

    let url = serve(api.router.clone()).await;
    let (exit, said) = interrupted(&url, "FINALIZED", &[Signal::INT], async |_| true).await;
    let id = batches().await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!((exit, &batches().await[0]["status"]), (Some(1), &json!("FINALIZED")), "{said}");
    for command in ["results", "cancel"] {
        assert!(said.contains(&format!("`runpod-endpoint batch {command} {id}`")), "{said}");
    }
}

/// A route that never answers, and how often it was called.
fn silent() -> (MethodRouter, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let never = move || {
        count.fetch_add(1, Relaxed);
        std::future::pending::<()>()
    };
    (post(never), calls)
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_endpoint_that_is_silent() {
    let (created, calls) = silent();
    let url = serve(Router::new().route("/v2/ep/batch", created)).await;
    let (exit, said) = interrupted(&url, "", &[Signal::INT], async |_| calls.load(Relaxed) == 1).await;
    assert!(exit == Some(3) && said.contains("`runpod-endpoint batch list`"), "{said}");

    let api = Api::new();
    let ((added, adds), (cancelled, cancels)) = (silent(), silent());
    let silent = Router::new().route("/v2/ep/batch/{id}/requests", added).route("/v2/ep/batch/{id}/cancel", cancelled);
    let url = serve(silent.fallback_service(api.router.clone())).await;
    let is_time = async |number: usize| [&adds, &cancels][number].load(Relaxed) == 1;
    let (exit, said) = interrupted(&url, "", &[Signal::INT, Signal::INT], is_time).await;
    assert!(exit == Some(3) && said.contains("`runpod-endpoint batch cancel batch-"), "{said}");
}

/// What `batch submit` of a file with this text ends with.
async fn submitted(url: &str, text: &str, flags: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inputs.jsonl");
    std::fs::write(&file, text).unwrap();
    let mut submit = program();
    submit.env("RUNPOD_ENDPOINT_URL", url).args(["batch", "submit"]).args(flags).arg(&file);
    let ended = timeout(SOON, submit.output()).await.unwrap().unwrap();
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

#[tokio::test]
async fn a_draft_that_cannot_be_cancelled_is_named() {
    let api = Api::new();
    let away = || post(async || StatusCode::BAD_GATEWAY);
    let away = Router::new().route("/v2/ep/batch/{id}/requests", away()).route("/v2/ep/batch/{id}/cancel", away());
    let url = serve(away.fallback_service(api.router.clone())).await;
    let (exit, said) = submitted(&url, "1\n", &[]).await;
    let id = api.get("batch").await.json()["batches"][0]["id"].as_str().unwrap().to_owned();
    assert!(exit == Some(1) && said.contains(&format!("`runpod-endpoint batch cancel {id}`")), "{said}");
}

#[tokio::test]
async fn mistakes_in_a_file_are_found_before_anything_is_sent() {
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let long = format!("1\n\"{}\"\n", "x".repeat(10 << 20));
    let name = "n".repeat(257);
    for (text, flags, expected) in [
        (
            "1\n{\"input\": 1, \"webhook\": 5}\n",
            &[][..],
            "line 2: `webhook` has a wrong value: invalid type: integer `5`",
        ),
        (
            "\n{\"input\": 1, \"policy\": {\"ttl\": \"1h\"}}\n",
            &[],
            "line 2: `policy` has a wrong value: invalid type: string \"1h\"",
        ),
        ("1\n{\"input\": }\n", &[], "line 2 is not JSON: expected value at column 11"),
        (&long, &[], "line 2 is too long: a request may have 10 MiB"),
        ("1\n", &["--name", &name], "give at most 256 characters"),
    ] {
        let (exit, said) = submitted(&url, text, flags).await;
        assert!(exit == Some(64) && said.contains(expected) && !said.contains("at line"), "{said}");
    }
    assert_eq!(api.get("batch").await.json()["total"], 0);
    // Fields of an input are no fields of a request.
    assert_eq!(submitted(&url, "{\"webhook\": 5}\n", &["--detach"]).await.0, Some(0));
}
