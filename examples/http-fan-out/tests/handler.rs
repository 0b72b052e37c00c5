//! The handler against a local server.

#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::get;
use http_fan_out::{FanOut, Input, Output};
use runpod_handler_sdk::files::address_guard::Guard;
use runpod_handler_sdk::testing::Harness;
use runpod_handler_sdk::{AsyncHandler, AsyncJob, ErrorKind, HandlerError, LoadEnv, NoChunks};
use serde_json::{Value, json};

/// SHA-256 of `{"a":1}`.
const SHA256: &str = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";

/// The handler with access to the local server.
struct Local(FanOut);

impl AsyncHandler for Local {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    async fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        FanOut::new(Guard::new(&["127.0.0.0/8".parse()?])).map(Self)
    }

    async fn run(&self, input: Input, job: AsyncJob<NoChunks>) -> Result<Output, HandlerError> {
        self.0.run(input, job).await
    }
}

/// A server, and the most requests that it has had at the same time.
fn server() -> (String, Arc<AtomicUsize>) {
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&most);
    let slow = move || {
        let (now, most) = (Arc::clone(&now), Arc::clone(&counted));
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            "slow"
        }
    };
    let router = Router::new()
        .route("/json", get(|| async { r#"{"a":1}"# }))
        .route("/slow", get(slow))
        .route("/silent", get(std::future::pending::<String>))
        .route("/long", get(|| async { "x".repeat(2000) }))
        .route("/moved", get(|| async { Redirect::to("/json") }))
        .route("/inwards", get(|| async { Redirect::to("http://10.0.0.1/") }))
        .route("/circle", get(|| async { Redirect::to("/circle") }))
        .route("/file", get(|| async { (StatusCode::FOUND, [("location", "file:///etc/passwd")]) }));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await })
            .unwrap();
    });
    (base, most)
}

fn fetch(handler: &mut Harness, mut input: Value, base: &str) -> Value {
    for url in input["urls"].as_array_mut().unwrap() {
        *url = json!(url.as_str().unwrap().replace("BASE", base));
    }
    handler.run(&input).unwrap().output
}

#[test]
fn each_url_has_its_own_result_in_the_order_of_the_input() {
    let (base, _) = server();
    let mut handler = Harness::load_async::<Local>().unwrap();
    let paths = ["json", "slow", "nothing", "long", "silent", "moved", "circle", "file", "inwards"];
    let urls: Vec<String> = paths.iter().map(|path| format!("BASE/{path}")).chain(["not a url".to_owned()]).collect();
    let output = fetch(&mut handler, json!({"urls": urls, "timeout_ms": 1000, "max_bytes": 1000, "json": true}), &base);
    let results = output["results"].as_array().unwrap();
    let ends: Vec<(&Value, bool)> = results.iter().map(|one| (&one["status"], one["error"].is_string())).collect();
    let expected = [
        (json!(200), false),
        (json!(200), false),
        (json!(404), false),
        (json!(200), true),
        (Value::Null, true),
        (json!(200), false),
        (Value::Null, true),
        (json!(302), false),
        (Value::Null, true),
        (Value::Null, true),
    ];
    assert_eq!(ends, expected.iter().map(|(status, failed)| (status, *failed)).collect::<Vec<_>>(), "{output}");
    assert_eq!(output["failed"], 5);
    assert_eq!((&results[0]["length"], &results[0]["sha256"]), (&json!(7), &json!(SHA256)));
    assert_eq!((&results[0]["json"], &results[1]["json"]), (&json!({"a": 1}), &Value::Null));
    assert_eq!(results[3]["error"], "the body is longer than 1000 bytes");
    assert_eq!(results[4]["error"], "no complete answer within 1s");
    assert!(results[6]["error"].as_str().unwrap().contains("redirects"), "{}", results[6]);
    assert!(results[8]["error"].as_str().unwrap().contains("has no public address"), "{}", results[8]);
}

#[test]
fn as_many_urls_as_asked_for_are_fetched_at_once() {
    let (base, most) = server();
    let mut handler = Harness::load_async::<Local>().unwrap();
    let output = fetch(&mut handler, json!({"urls": vec!["BASE/slow"; 40], "concurrency": 10}), &base);
    assert_eq!((output["failed"].clone(), output["results"].as_array().unwrap().len()), (json!(0), 40));
    assert_eq!(most.load(Ordering::SeqCst), 10);
}

#[test]
fn private_addresses_are_refused_by_number_and_by_name() {
    let (base, _) = server();
    let port = base.rsplit(':').next().unwrap();
    let mut handler = Harness::load_async::<FanOut>().unwrap();
    let urls = [
        base.clone(),
        format!("http://localhost:{port}/json"),
        "http://[::1]/".to_owned(),
        "http://0x7f.1/".to_owned(),
    ];
    let output = handler.run(&json!({ "urls": urls })).unwrap().output;
    assert_eq!(output["failed"], 4, "{output}");
    for result in output["results"].as_array().unwrap() {
        assert!(result["error"].as_str().unwrap().contains("has no public address"), "{result}");
    }
}

#[test]
fn the_limits_of_the_input_are_enforced() {
    let mut handler = Harness::load_async::<Local>().unwrap();
    for input in [json!({"urls": []}), json!({"urls": ["http://a"], "concurrency": 0}), json!({"url": "http://a"})] {
        assert_eq!(handler.run(&input).unwrap_err().kind(), Some(ErrorKind::Validation), "{input}");
    }
}
