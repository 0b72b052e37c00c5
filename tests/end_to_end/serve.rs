//! `runpod-worker serve`: the handler answers HTTP requests, as on RunPod's load-balancing endpoints; and the realtime port.

use std::time::Duration;

use end_to_end_tests::{Daemon, binary, eventually, free_port};
use reqwest::{Response, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longest time for a worker to end.
const END: Duration = Duration::from_secs(30);

struct Server {
    daemon: Daemon,
    base: String,
    health: String,
}

impl Server {
    /// Starts one as the platform would, with ports for jobs and health.
    fn start(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let (port, health, own) = (free_port(), free_port(), free_port());
        let mut args = vec!["serve".to_owned(), "--http-bind".to_owned(), format!("127.0.0.1:{own}")];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        args.extend(["--".to_owned(), binary("puppet-handler").to_string_lossy().into_owned()]);
        let mut variables = vec![
            ("PORT".to_owned(), port.to_string()),
            ("PORT_HEALTH".to_owned(), health.to_string()),
            ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS".to_owned(), "true".to_owned()),
        ];
        variables.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let daemon = Daemon::start("server", &binary("runpod-worker"), &args, &variables);
        Self { daemon, base: format!("http://127.0.0.1:{port}"), health: format!("http://127.0.0.1:{health}") }
    }

    async fn ready(flags: &[&str]) -> Self {
        let server = Self::start(flags, &[]);
        server.ping_becomes(StatusCode::OK).await;
        server
    }

    async fn ping_becomes(&self, wanted: StatusCode) {
        eventually("the health port's answer", || async {
            let reply = reqwest::get(format!("{}/ping", self.health)).await.ok()?;
            (reply.status() == wanted).then_some(())
        })
        .await;
    }

    fn send(&self, input: &Value) -> reqwest::RequestBuilder {
        reqwest::Client::new().post(format!("{}/runsync", self.base)).json(&json!({ "input": input }))
    }

    async fn run(&self, input: Value) -> (StatusCode, Value) {
        answer(self.send(&input).send().await.unwrap()).await
    }

    /// A request that keeps a slot busy, under way until its slot is seen busy.
    async fn busy(&self, input: &Value) -> tokio::task::JoinHandle<reqwest::Result<Response>> {
        let request = tokio::spawn(self.send(input).send());
        self.daemon.logs("Started.").await;
        request
    }
}

async fn answer(reply: Response) -> (StatusCode, Value) {
    (reply.status(), reply.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_with_the_result_or_the_failure() {
    let server = Server::ready(&[]).await;
    let (status, done) = server.run(json!({ "do": "ok" })).await;
    assert_eq!((status, &done["status"], &done["output"]["ok"]), (StatusCode::OK, &json!("COMPLETED"), &json!(true)));
    assert_eq!(done["output"]["job"], done["id"]);

    let (status, streamed) = server.run(json!({ "do": "stream", "n": 3 })).await;
    assert_eq!((status, &streamed["stream"]), (StatusCode::OK, &json!([{"output": 1}, {"output": 2}, {"output": 3}])));

    for (what, code, kind) in [
        ("no_such_thing", StatusCode::BAD_REQUEST, "validation"),
        ("unknown_model", StatusCode::NOT_FOUND, "model_not_found"),
        ("error", StatusCode::INTERNAL_SERVER_ERROR, "inference_error"),
        ("segv", StatusCode::INTERNAL_SERVER_ERROR, "crashed"),
    ] {
        let (status, failed) = server.run(json!({ "do": what })).await;
        assert_eq!((status, &failed["status"]), (code, &json!("FAILED")), "{what}: {failed}");
        assert!(failed["error"].as_str().unwrap().contains(kind), "{what}: {failed}");
    }
    let (status, done) = server.run(json!({ "do": "ok" })).await;
    assert_eq!(status, StatusCode::OK, "after a crash the next one is served: {done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_not_a_job_is_refused_with_the_form_that_it_should_have() {
    let server = Server::ready(&[]).await;
    for body in ["", "{", "[]", "{}", r#"{"id": 1, "input": {}}"#] {
        let request = reqwest::Client::new().post(format!("{}/runsync", server.base)).body(body);
        let (status, refused) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(!refused["error"].as_str().unwrap().is_empty(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_come_as_events_before_the_result() {
    let server = Server::ready(&[]).await;
    let request = server.send(&json!({ "do": "stream", "n": 2 })).header("Accept", "text/event-stream");
    let text = request.send().await.unwrap().text().await.unwrap();
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events[..2], [r#"data: {"output":1}"#, r#"data: {"output":2}"#], "{text}");
    assert!(events[2].lines().any(|line| line == "event: result") && events[2].contains("COMPLETED"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_frees_its_slot() {
    let server = Server::ready(&["--cancel-grace", "200ms"]).await;
    let caller = server.busy(&json!({ "do": "check_cancel" })).await;
    caller.abort();
    let (status, done) = server.run(json!({ "do": "ok" })).await;
    assert_eq!(status, StatusCode::OK, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_limit_of_those_that_wait_get_503_with_retry_after() {
    let server = Server::ready(&["--max-waiting", "1", "--max-wait", "1s"]).await;
    let _running = server.busy(&json!({ "do": "check_cancel" })).await;
    let waiting = tokio::spawn(server.send(&json!({ "do": "ok" })).send());
    let refused = eventually("a refusal", || async {
        let reply = server.send(&json!({ "do": "ok" })).send().await.unwrap();
        (reply.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(reply)
    })
    .await;
    assert!(refused.headers().contains_key("retry-after"));
    let (status, late) = answer(waiting.await.unwrap().unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(late["error"].as_str().unwrap().contains("1s"), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_the_running_request_finish_and_turns_new_ones_away() {
    let mut server = Server::ready(&[]).await;
    let running = server.busy(&json!({ "do": "sleep_ms", "ms": 1500 })).await;
    server.daemon.signal(Signal::TERM);
    server.ping_becomes(StatusCode::SERVICE_UNAVAILABLE).await;
    let (status, refused) = server.run(json!({ "do": "ok" })).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused}");
    let (status, done) = answer(running.await.unwrap().unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_eq!(server.daemon.wait(END).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_over_when_the_grace_ends_is_turned_away() {
    let grace = ["--slots", "3", "--drain-grace", "300ms", "--cancel-grace", "300ms"];
    let mut server = Server::ready(&grace).await;
    let yields = server.busy(&json!({ "do": "check_cancel" })).await;
    let deaf = tokio::spawn(server.send(&json!({ "do": "ignore_cancel" })).send());
    let events = server.send(&json!({ "do": "check_cancel" })).header("Accept", "text/event-stream");
    let events = events.send().await.unwrap();
    eventually("three jobs", || async { (server.daemon.log().matches("Started.").count() == 3).then_some(()) }).await;
    server.daemon.signal(Signal::TERM);
    for caller in [yields, deaf] {
        let reply = caller.await.unwrap().unwrap();
        assert!(reply.headers().contains_key("retry-after"), "{reply:?}");
        let (status, refused) = answer(reply).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused}");
        assert!(refused["error"].as_str().unwrap().contains("shutting down"), "{refused}");
    }
    let events = events.text().await.unwrap();
    assert!(events.contains("event: refused") && events.contains("shutting down"), "{events}");
    assert_eq!(server.daemon.wait(END).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_items_are_limited_when_they_are_collected_and_unlimited_when_they_are_read() {
    let server = Server::ready(&[]).await;
    let much = json!({ "do": "stream_bytes", "n": 9, "bytes": 8 << 20 });
    let (status, failed) = server.run(much.clone()).await;
    assert_eq!((status, &failed["status"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("FAILED")));
    assert!(failed["error"].as_str().unwrap().contains("text/event-stream"), "{failed}");
    let events = server.send(&much).header("Accept", "text/event-stream").send().await.unwrap();
    let text = events.text().await.unwrap();
    assert!(text.len() > 9 * (8 << 20) && text.contains("COMPLETED"), "{} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_says_204_while_the_model_loads() {
    let slow = [("PUPPET_START", "load_slow"), ("PUPPET_LOAD_MS", "2000"), ("HEALTH_CHECK_PATH", "/health/up")];
    let server = Server::start(&[], &slow);
    server.ping_becomes(StatusCode::NO_CONTENT).await;
    let request = tokio::spawn(server.send(&json!({ "do": "ok" })).send());
    let (status, done) = answer(request.await.unwrap().unwrap()).await;
    assert_eq!(status, StatusCode::OK, "a request waits for the model: {done}");
    for base in [&server.base, &server.health] {
        assert_eq!(reqwest::get(format!("{base}/health/up")).await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_realtime_port_answers_with_the_bare_result() {
    let port = free_port();
    let args = ["run", "--http-bind", "none", "--"].map(str::to_owned).to_vec();
    let handler = binary("puppet-handler").to_string_lossy().into_owned();
    let env = [("RUNPOD_REALTIME_PORT", port.to_string()), ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true".to_owned())];
    let env = env.map(|(name, value)| (name.to_owned(), value));
    let _worker = Daemon::start("worker", &binary("runpod-worker"), &[args, vec![handler]].concat(), &env);
    let url = format!("http://127.0.0.1:{port}/my-endpoint/realtime");
    let send = |input: Value| {
        let request = reqwest::Client::new().post(&url).json(&json!({ "id": "x", "input": input }));
        async { request.send().await.ok() }
    };
    let done: Value = eventually("the realtime port", || send(json!({ "do": "ok" }))).await.json().await.unwrap();
    assert_eq!(done["output"]["ok"], true);
    assert!(done["output"]["job"].as_str().unwrap().starts_with("x-"), "{done}");
    assert_eq!(done.as_object().unwrap().len(), 1, "{done}");
    let streamed: Value = send(json!({ "do": "stream", "n": 2 })).await.unwrap().json().await.unwrap();
    assert_eq!(streamed["stream"], json!([{ "output": 1 }, { "output": 2 }]), "{streamed}");
    assert_eq!(streamed["output"]["ok"], true, "{streamed}");
    let failed: Value = send(json!({ "do": "error" })).await.unwrap().json().await.unwrap();
    assert!(failed["error"].as_str().unwrap().contains("the puppet fails as asked"), "{failed}");
}
