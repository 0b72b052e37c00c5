//! Load-balancing endpoints: requests to workers that run `runpod-worker serve`.

use std::time::Duration;

use end_to_end_tests::{Daemon, Postgres, binary, eventually, free_port};
use reqwest::Client;
use serde_json::{Value, json};

/// The settings of an endpoint whose worker is the example `echo`.
fn config(port: u16, rest: &str) -> String {
    let echo = binary("echo");
    format!(
        "[[endpoint]]\nid = \"lb\"\nhandler = [{echo:?}]\nload_balancer = {{ bind = \"127.0.0.1:{port}\", concurrency = 1 }}\n{rest}"
    )
}

fn serve(folder: &std::path::Path, text: &str, more: &[&str]) -> Daemon {
    let file = folder.join("endpoints.toml");
    std::fs::write(&file, text).unwrap();
    let bind = format!("127.0.0.1:{}", free_port());
    let file = file.to_string_lossy();
    let arguments = [&["serve", "--bind", &*bind, "--worker-http-port", "0", "--config", &*file], more].concat();
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Daemon::start("serve", &binary("runpod-endpoint"), &arguments, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_starts_a_worker_that_answers_it_and_the_worker_leaves_when_it_is_idle() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let rest = "workers_min = 0\nworkers_max = 2\nidle_timeout = \"1s\"";
    let server = serve(folder.path(), &config(port, rest), &[]);
    server.logs("Load balancer of endpoint lb").await;
    let url = format!("http://127.0.0.1:{port}/runsync");
    let run = async || {
        let request = Client::new().post(&url).json(&json!({"input": {"text": "hi"}})).timeout(Duration::from_secs(60));
        request.send().await.unwrap()
    };
    let reply = run().await;
    assert_eq!((reply.status().as_u16(), reply.headers()["x-runpod-worker-id"].to_str().unwrap()), (200, "lb-0"));
    let document: Value = reply.json().await.unwrap();
    assert_eq!(document["status"], "COMPLETED", "{document}");
    server.logs("The worker is idle and stops.").await;
    // The next request starts one again.
    assert_eq!(run().await.status().as_u16(), 200);
    // Any path reaches the worker: this one it does not have.
    let other = eventually("an answer of the worker", async || {
        Client::new().get(format!("http://127.0.0.1:{port}/no/such/path")).send().await.ok()
    })
    .await;
    assert_eq!(other.status().as_u16(), 404);
    assert!(other.headers().contains_key("x-runpod-worker-id"));
}

/// Each balances over the workers that it has started, as many as its own requests need.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_share_a_database_balance_over_their_own_workers() {
    let Some(database) = Postgres::shared() else { return };
    let database = database.database();
    let rest = "workers_min = 0\nworkers_max = 1";
    let start = || {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let server = serve(folder.path(), &config(port, rest), &["--database", &database]);
        (folder, port, server)
    };
    let servers = [start(), start()];
    let mut requests = Vec::new();
    for (_, port, server) in &servers {
        server.logs("Load balancer of endpoint lb").await;
        let url = format!("http://127.0.0.1:{port}/runsync");
        let request = Client::new().post(&url).json(&json!({"input": {"text": "hi"}})).timeout(Duration::from_secs(60));
        requests.push(request.send());
    }
    let replies = futures_util::future::join_all(requests).await;
    let worker = |reply: &reqwest::Response| reply.headers()["x-runpod-worker-id"].to_str().unwrap().to_owned();
    let workers: Vec<_> = replies.iter().map(|reply| worker(reply.as_ref().unwrap())).collect();
    assert!(
        workers.iter().all(|worker| worker.starts_with("lb-") && worker.ends_with("-0")) && workers[0] != workers[1],
        "{workers:?}"
    );
}
