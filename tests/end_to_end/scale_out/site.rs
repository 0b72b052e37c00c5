//! Hosts with replicas and workers.

use std::path::PathBuf;
use std::time::Duration;

use end_to_end_tests::{Daemon, Host, Lab, binary, eventually, worker_env};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// How long a worker may be silent before its jobs are given to others. Longer than a failure and the recovery from it may take on a
/// machine that is busy: a job of a worker that lives is not to be run again.
pub(super) const LEASE: &str = "60s";

/// Jobs that a worker runs at a time.
pub(super) const SLOTS: usize = 2;

/// Longer than a replica waits for its database before it gives up a request.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// An endpoint on a host of its own.
pub(super) struct Replica {
    pub(super) host: Host,
    pub(super) daemon: Daemon,
    args: Vec<String>,
}

impl Replica {
    pub(super) fn start(lab: &Lab, database: &str) -> Self {
        let host = lab.host();
        let args = [
            "serve",
            "--bind",
            "0.0.0.0:8000",
            "--insecure-no-auth",
            "--lease",
            LEASE,
            "--retries",
            "100",
            "--database",
            database,
        ];
        let args = args.map(str::to_owned).to_vec();
        Self { daemon: host.start("replica", &binary("runpod-endpoint"), &args, &[]), host, args }
    }

    pub(super) fn kill(&self) {
        self.host.kill();
    }

    /// Starts it again after [`kill`](Self::kill).
    pub(super) fn run(&mut self) {
        self.daemon = self.host.start("replica", &binary("runpod-endpoint"), &self.args, &[]);
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}:8000{path}", self.host.address)
    }

    /// The client API.
    pub(super) fn base(&self) -> String {
        self.url("/v2/test")
    }

    /// Waits until it can work.
    pub(super) async fn ready(&self) {
        let (http, url) = (http(), self.url("/ready"));
        eventually("the replica to be ready", || async {
            http.get(&url).send().await.ok().filter(|reply| reply.status().is_success())
        })
        .await;
    }
}

/// A worker on a host of its own, at one replica.
pub(super) struct WorkerHost {
    pub(super) id: String,
    pub(super) host: Host,
    pub(super) daemon: Daemon,
    env: Vec<(String, String)>,
    spool: PathBuf,
}

impl WorkerHost {
    pub(super) fn start(lab: &Lab, replica: &Replica, id: &str) -> Self {
        let host = lab.host();
        let spool = lab.folder().join(id);
        let mut env = worker_env(&replica.base(), id);
        env.push(("RUNPOD_WORKER_SPOOL_DIR".to_owned(), spool.display().to_string()));
        Self { id: id.to_owned(), daemon: launch(&host, &env), host, env, spool }
    }

    pub(super) fn kill(&self) {
        self.host.kill();
    }

    /// Starts it again under its name after [`kill`](Self::kill); it finds what it could not deliver.
    pub(super) fn run(&mut self) {
        assert!(self.spool.exists(), "the spool of {} is gone", self.id);
        self.daemon = launch(&self.host, &self.env);
    }
}

fn launch(host: &Host, env: &[(String, String)]) -> Daemon {
    let handler = binary("puppet-handler").display().to_string();
    let slots = SLOTS.to_string();
    let args = ["run", "--http-bind", "127.0.0.1:8001", "--slots", &slots, "--", &handler].map(str::to_owned);
    host.start("worker", &binary("runpod-worker"), &args, env)
}

/// A client that waits as long as a replica does.
pub(super) fn http() -> Client {
    Client::builder().timeout(REQUEST_LIMIT).connect_timeout(CONNECT_LIMIT).build().unwrap()
}

/// Submits a job; returns its id, or `None` when it was refused with 503 and `Retry-After`, or nothing was answered.
pub(super) async fn submit(http: &Client, base: &str, input: &Value) -> Option<String> {
    let reply = http.post(format!("{base}/run")).json(&json!({ "input": input })).send().await.ok()?;
    if reply.status() == StatusCode::SERVICE_UNAVAILABLE {
        assert!(reply.headers().contains_key("retry-after"), "{reply:?}");
        return None;
    }
    assert_eq!(reply.status(), StatusCode::OK, "a client saw something else than 503");
    // The connection may be lost within the answer.
    let answer: Value = reply.json().await.ok()?;
    Some(answer["id"].as_str().unwrap().to_owned())
}

/// Submits a job, again and again until it is accepted.
pub(super) async fn submitted(http: &Client, base: &str, input: &Value) -> String {
    eventually("a submission to be accepted", || submit(http, base, input)).await
}

/// The document of a job; `None` while the replica cannot say.
pub(super) async fn status(http: &Client, base: &str, id: &str) -> Option<Value> {
    let reply = http.get(format!("{base}/status/{id}")).send().await.ok()?;
    if reply.status() == StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    assert_eq!(reply.status(), StatusCode::OK, "{id} is lost");
    reply.json().await.ok()
}

/// Waits until a job has been run.
pub(super) async fn completed(http: &Client, base: &str, id: &str) {
    eventually(&format!("job {id} to complete"), || async {
        status(http, base, id).await.filter(|job| job["status"] == "COMPLETED")
    })
    .await;
}
