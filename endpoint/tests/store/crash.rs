//! `kill -9` of the real program under load.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{Engine, SOON, Sqlite};

const CLIENTS: usize = 8;
const WORKERS: usize = 4;
const KILLS: usize = 2;
/// What must have happened between two kills.
const ACCEPTED: usize = 150;
const FINISHED: usize = 50;
const PAUSE: Duration = Duration::from_millis(5);

/// What clients and workers were told, kept across the lives of the server.
#[derive(Default)]
struct Ledger {
    next_input: AtomicUsize,
    /// Job ids and their inputs, once `/run` was answered.
    accepted: Mutex<HashMap<String, usize>>,
    /// How often each input was handed to a worker.
    runs: Mutex<HashMap<usize, u32>>,
    /// Outputs by job id, once job-done was answered.
    finished: Mutex<HashMap<String, Value>>,
    /// Results whose delivery was not acknowledged, as a worker's outbox would keep them.
    undelivered: Mutex<Vec<(String, String, Value)>>,
}

struct Server {
    child: Child,
    url: String,
}

async fn start(engine: &Sqlite) -> Server {
    #[expect(clippy::disallowed_methods, reason = "the test runs the program under test")]
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_runpod-endpoint"));
    // The lease ends soon, so that jobs whose delivery the kill interrupted are found in time.
    command.args(["serve", "--bind", "127.0.0.1:0", "--lease", "5s", "--hold", "1s", "--data"]).arg(engine.path());
    command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(url) = line.strip_prefix("RunPod-compatible endpoint: ") {
                return url.to_owned();
            }
        }
    };
    let url = timeout(SOON, reading).await.unwrap();
    // What else it prints is read, so that the pipe stays open.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Server { child, url }
}

/// Submits until there is enough to do, or until the server is gone.
async fn submit(ledger: Arc<Ledger>, http: Client, url: String, enough: usize) {
    while ledger.accepted.lock().unwrap().len() < enough {
        let input = ledger.next_input.fetch_add(1, Ordering::Relaxed);
        let sent = http.post(format!("{url}/run")).body(json!({ "input": input }).to_string()).send().await;
        let Ok(reply) = sent else { return };
        let Ok(text) = reply.text().await else { return };
        let reply: Value = serde_json::from_str(&text).unwrap();
        ledger.accepted.lock().unwrap().insert(reply["id"].as_str().unwrap().to_owned(), input);
    }
}

/// Runs jobs until told to stop, or until the server is gone.
async fn work(ledger: Arc<Ledger>, http: Client, url: String, name: String, stop: Arc<AtomicBool>) {
    // From here on the server counts on heartbeats, and a job that is missing from them for a lease is lost.
    let _ = http.get(format!("{url}/ping/{name}")).send().await;
    while !stop.load(Ordering::Relaxed) {
        let Ok(reply) = http.get(format!("{url}/job-take/{name}")).send().await else { return };
        if reply.status() == StatusCode::NO_CONTENT {
            continue;
        }
        let Ok(text) = reply.text().await else { return };
        let Ok(job) = serde_json::from_str::<Value>(&text) else { return };
        let (id, input) = (job["id"].as_str().unwrap().to_owned(), job["input"].as_u64().unwrap() as usize);
        let run = {
            let mut runs = ledger.runs.lock().unwrap();
            let run = runs.entry(input).or_default();
            *run += 1;
            *run
        };
        let output = json!({ "input": input, "run": run });
        if !deliver(&ledger, &http, &url, &name, &id, &output).await {
            ledger.undelivered.lock().unwrap().push((name, id, output));
            return;
        }
    }
}

async fn deliver(ledger: &Ledger, http: &Client, url: &str, worker: &str, id: &str, output: &Value) -> bool {
    let body = json!({ "output": output }).to_string();
    let sent = http.post(format!("{url}/job-done/{worker}/{id}?isStream=false")).body(body).send().await;
    let acknowledged = sent.is_ok_and(|reply| reply.status() == StatusCode::OK);
    if acknowledged {
        ledger.finished.lock().unwrap().entry(id.to_owned()).or_insert_with(|| output.clone());
    }
    acknowledged
}

async fn document(http: &Client, url: &str, id: &str) -> Value {
    let reply = http.get(format!("{url}/status/{id}")).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK, "{id} was accepted and is not there");
    serde_json::from_str(&reply.text().await.unwrap()).unwrap()
}

/// Everything that anyone was told is still true.
async fn check(ledger: &Ledger, http: &Client, url: &str) {
    let accepted = ledger.accepted.lock().unwrap().clone();
    for id in accepted.keys() {
        let finished = ledger.finished.lock().unwrap().get(id).cloned();
        let document = document(http, url, id).await;
        if let Some(output) = finished {
            assert_eq!((&document["status"], &document["output"]), (&json!("COMPLETED"), &output), "{document}");
        }
    }
}

fn workers(ledger: &Arc<Ledger>, http: &Client, url: &str, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for number in 0..WORKERS {
        let (ledger, http, stop) = (Arc::clone(ledger), http.clone(), Arc::clone(stop));
        tasks.spawn(work(ledger, http, url.to_owned(), format!("w{number}"), stop));
    }
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_jobs_and_results_survive_a_kill_under_load() {
    let engine = Sqlite::new();
    let ledger = Arc::<Ledger>::default();
    let http = Client::builder().no_proxy().timeout(SOON).build().unwrap();
    for kill in 1..=KILLS {
        let mut server = start(&engine).await;
        let never = Arc::<AtomicBool>::default();
        let mut tasks = workers(&ledger, &http, &server.url, &never);
        for _ in 0..CLIENTS {
            tasks.spawn(submit(Arc::clone(&ledger), http.clone(), server.url.clone(), 2 * kill * ACCEPTED));
        }
        let enough = async {
            while ledger.accepted.lock().unwrap().len() < kill * ACCEPTED
                || ledger.finished.lock().unwrap().len() < kill * FINISHED
            {
                sleep(PAUSE).await;
            }
        };
        timeout(SOON, enough).await.unwrap();
        server.child.kill().await.unwrap();
        timeout(SOON, tasks.join_all()).await.unwrap();

        let mut server = start(&engine).await;
        check(&ledger, &http, &server.url).await;
        let undelivered = std::mem::take(&mut *ledger.undelivered.lock().unwrap());
        for (worker, id, output) in undelivered {
            // A result of the first run that was stored, though not acknowledged, is in the document already.
            assert!(deliver(&ledger, &http, &server.url, &worker, &id, &output).await);
        }
        check(&ledger, &http, &server.url).await;
        server.child.kill().await.unwrap();
    }

    let server = start(&engine).await;
    let stop = Arc::<AtomicBool>::default();
    let tasks = workers(&ledger, &http, &server.url, &stop);
    let accepted = ledger.accepted.lock().unwrap().clone();
    let idle = async {
        loop {
            let reply = http.get(format!("{}/health", server.url)).send().await.unwrap().text().await.unwrap();
            let jobs = serde_json::from_str::<Value>(&reply).unwrap()["jobs"].clone();
            if (&jobs["inQueue"], &jobs["inProgress"]) == (&json!(0), &json!(0)) {
                assert!(jobs["completed"].as_u64().unwrap() >= accepted.len() as u64, "{jobs}");
                return;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(SOON, idle).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    timeout(SOON, tasks.join_all()).await.unwrap();
    check(&ledger, &http, &server.url).await;
    for (id, input) in &accepted {
        let document = document(&http, &server.url, id).await;
        assert_eq!(document["status"], "COMPLETED", "{document}");
        let runs = ledger.runs.lock().unwrap()[input];
        let retries = document["retries"].as_u64().unwrap_or(0);
        assert!(u64::from(runs) <= 1 + retries, "{id} ran {runs} times and reports {retries} retries");
    }
}
