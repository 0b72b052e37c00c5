//! Mistakes of callers. Each answer names the mistake and its place.

use end_to_end_tests::{Endpoint, Postgres, Stack, WorkerOptions};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn input_of_the_wrong_type_fails_with_its_path() {
    let stack = Stack::start("echo", WorkerOptions::default()).await;
    for (input, path) in [(json!({"text": 3}), "input.text"), (json!({}), "text"), (json!("hello"), "input")] {
        let job = stack.client.run(input.clone()).await;
        assert_eq!(job["status"], "FAILED", "{job}");
        let error: Value = serde_json::from_str(job["error"].as_str().unwrap()).unwrap();
        assert_eq!(error["error_type"], "validation");
        let message = error["error_message"].as_str().unwrap();
        assert!(message.contains(path) && message.lines().count() == 1, "{input}: {message}");
    }
    assert_eq!(stack.client.run(json!({"text": "still here"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_jobs_are_refused_by_the_endpoint() {
    let stack = Stack::start("echo", WorkerOptions::default()).await;
    let url = format!("{}/test/run", stack.endpoint.base);
    let http = reqwest::Client::new();
    for body in ["", "{", "[]", "3", "{\"prompt\": \"no input\"}"] {
        let reply = http.post(&url).header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(reply.status(), 400, "{body:?}");
        let problem: Value = reply.json().await.unwrap();
        assert!(problem["error"].is_string() || problem["detail"].is_string(), "{body:?}: {problem}");
    }
    assert_eq!(stack.client.get("/status/unknown").await["status"], 404);
    assert_eq!(stack.client.health().await["jobs"]["inQueue"], 0);
}

/// Names with a NUL are taken, and those of its callers who look for such a name find nothing.
async fn takes_a_nul(endpoint: &Endpoint) {
    let client = endpoint.client();
    client.submit(json!({"user": "a\0"})).await;
    let batch = client.post("/batch", json!([])).await;
    let url = client.url(&format!("/batch/{}", batch["id"].as_str().unwrap()));
    let http = reqwest::Client::new();
    let named = http.put(&url).json(&json!({"name": "a\0"})).send().await.unwrap();
    assert_eq!(named.status(), 200);
    assert_eq!(named.json::<Value>().await.unwrap()["name"], "a\u{fffd}");

    let ping = http.get(client.url("/ping/w?job_id=a%00")).send().await.unwrap();
    assert_eq!(ping.status(), 200);
    let handed_back = client.post("/hand-back/w", json!({"jobs": ["a\0"]})).await;
    assert_eq!(handed_back, json!({"handedBack": 0}));
    let console = endpoint.base.replace("/v2", "/console/test");
    for query in ["overview?id=%00", "overview?id=a%00", "history?text=%00"] {
        let reply = http.get(format!("{console}/{query}")).send().await.unwrap();
        assert_eq!(reply.status(), 200, "{query}");
        assert_eq!(reply.json::<Value>().await.unwrap()["jobs"], json!([]), "{query}");
    }
    for page in ["failed", "webhooks", "batch", &format!("batch/{}/requests", batch["id"].as_str().unwrap())] {
        let reply = http.get(client.url(&format!("/{page}?offset={}", u64::MAX))).send().await.unwrap();
        assert_eq!(reply.status(), 200, "{page}");
    }
    let older = http.get(format!("{console}/history?before={}", u64::MAX)).send().await.unwrap();
    assert_eq!(older.status(), 200);
    assert_eq!(client.health().await["jobs"]["inQueue"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_the_text_of_a_client_is_no_matter_wherever_jobs_are_kept() {
    let flags = ["--fair-by", "input.user"];
    takes_a_nul(&Endpoint::start(&flags).await).await;
    takes_a_nul(&Endpoint::start_durable(&flags).await).await;
    if let Some(server) = Postgres::shared() {
        let database = server.database();
        takes_a_nul(&Endpoint::start(&[&flags[..], &["--database", &database]].concat()).await).await;
    }
}
