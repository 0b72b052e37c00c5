//! Load-balancing endpoints: requests to workers that run `runpod-worker serve`.

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Daemon, Postgres, binary, eventually, free_port, until};
use reqwest::{Client, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest time for a request: a worker may have to start.
const LONG: Duration = Duration::from_secs(60);

/// A server with one load-balancing endpoint, whose workers run a test handler.
struct Balanced {
    server: Daemon,
    folder: TempDir,
    /// Of the balancer.
    base: String,
    /// Of the server.
    root: String,
}

impl Balanced {
    /// `rest` are lines of the endpoint's configuration.
    async fn start(handler: &str, rest: &str) -> Self {
        Self::start_with(handler, rest, &[]).await
    }

    /// `flags` are more arguments of the server.
    async fn start_with(handler: &str, rest: &str, flags: &[&str]) -> Self {
        let (folder, port, own) = (tempfile::tempdir().unwrap(), free_port(), free_port());
        let handler = binary(handler);
        let balancer = format!("{{ bind = \"127.0.0.1:{port}\", concurrency = 1 }}");
        let config = format!("[[endpoint]]\nid = \"lb\"\nhandler = [{handler:?}]\nload_balancer = {balancer}\n{rest}");
        let file = folder.path().join("endpoints.toml");
        std::fs::write(&file, config).unwrap();
        let bind = format!("127.0.0.1:{own}");
        let file = file.to_string_lossy();
        let arguments = [&["serve", "--bind", &*bind, "--worker-http-port", "0", "--config", &*file], flags].concat();
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let server = Daemon::start("serve", &binary("runpod-endpoint"), &arguments, &[]);
        server.logs("Load balancer of endpoint lb").await;
        Self { server, folder, base: format!("http://127.0.0.1:{port}"), root: format!("http://127.0.0.1:{own}") }
    }

    async fn run(&self, input: Value, pin: &str) -> Response {
        let request = Client::new().post(format!("{}/runsync", self.base)).header("x-runpod-worker-id", pin);
        request.json(&json!({ "input": input })).timeout(LONG).send().await.unwrap()
    }

    /// A request that a worker answers once `name` exists.
    fn run_until(&self, name: &str) -> tokio::task::JoinHandle<Response> {
        let path = self.file(name);
        let request = Client::new().post(format!("{}/runsync", self.base));
        let request = request.json(&json!({"input": {"do": "wait_for", "path": path}})).timeout(LONG);
        tokio::spawn(async move { request.send().await.unwrap() })
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn workers(&self) -> Value {
        let health = reqwest::get(format!("{}/v2/lb/health", self.root)).await.unwrap();
        health.json::<Value>().await.unwrap()["workers"].take()
    }

    async fn workers_become(&self, state: &str, count: u64) {
        eventually(&format!("{count} {state}"), async || (self.workers().await[state] == count).then_some(())).await;
    }

    async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.root)).await.unwrap().text().await.unwrap()
    }
}

fn worker(reply: &Response) -> &str {
    reply.headers()["x-runpod-worker-id"].to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_starts_a_worker_that_answers_it_and_the_worker_leaves_when_it_is_idle() {
    let balanced = Balanced::start("echo", "workers_min = 0\nworkers_max = 2\nidle_timeout = \"1s\"").await;
    let run = async || balanced.run(json!({"text": "hi"}), "").await;
    let reply = run().await;
    assert_eq!((reply.status().as_u16(), worker(&reply)), (200, "lb-0"));
    let document: Value = reply.json().await.unwrap();
    assert_eq!(document["status"], "COMPLETED", "{document}");
    balanced.server.logs("The worker is idle and stops.").await;
    // The next request starts one again.
    assert_eq!(run().await.status().as_u16(), 200);
    // Any path reaches the worker: this one it does not have.
    let other = eventually("an answer of the worker", async || {
        Client::new().get(format!("{}/no/such/path", balanced.base)).send().await.ok()
    })
    .await;
    assert_eq!(other.status().as_u16(), 404);
    assert!(other.headers().contains_key("x-runpod-worker-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_the_workers_and_the_requests_are_shown() {
    let balanced = Balanced::start("puppet-handler", "").await;
    balanced.workers_become("idle", 1).await;
    let request = balanced.run_until("go");
    balanced.workers_become("running", 1).await;
    let metrics = balanced.metrics().await;
    for line in [
        "runpod_endpoint_balanced_requests_in_progress{endpoint=\"lb\"} 1.0",
        "runpod_endpoint_balanced_request_wait_seconds_count{endpoint=\"lb\"} 1",
        "runpod_endpoint_balanced_requests_total{endpoint=\"lb\",status=\"2xx\"} 0",
        "runpod_endpoint_workers{endpoint=\"lb\",state=\"running\"} 1.0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    std::fs::write(balanced.file("go"), "").unwrap();
    assert_eq!(request.await.unwrap().status().as_u16(), 200);
    balanced.workers_become("idle", 1).await;
    let metrics = balanced.metrics().await;
    for line in [
        "runpod_endpoint_balanced_requests_in_progress{endpoint=\"lb\"} 0.0",
        "runpod_endpoint_balanced_request_seconds_count{endpoint=\"lb\"} 1",
        "runpod_endpoint_balanced_requests_total{endpoint=\"lb\",status=\"2xx\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let overview = reqwest::get(format!("{}/console/lb/overview", balanced.root)).await.unwrap();
    let overview: Value = overview.json().await.unwrap();
    assert_eq!((&overview["workers"][0]["id"], &overview["workers"][0]["state"]), (&json!("lb-0"), &json!("idle")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_scaled_down_comes_back_for_a_request_that_resumes_it() {
    let balanced = Balanced::start("puppet-handler", "workers_min = 0\nworkers_max = 3\nidle_timeout = \"1s\"").await;
    let ok = || json!({"do": "ok"});
    let gone = balanced.run(ok(), "strict lb-2").await;
    assert_eq!(
        (gone.status().as_u16(), gone.json::<Value>().await.unwrap()["detail"].as_str()),
        (404, Some("affinity_worker_gone"))
    );
    for times in 1..=2 {
        let reply = balanced.run(ok(), "strict-resume lb-2").await;
        assert_eq!((reply.status().as_u16(), worker(&reply)), (200, "lb-2"));
        let leaves = || balanced.server.log().matches("The worker is idle and stops.").count() == times;
        until("it leaves again", leaves).await;
    }
    assert!(!balanced.server.log().contains("lb-0"), "no other worker was started for it");
    assert_eq!(balanced.run(ok(), "strict-resume lb-3").await.status().as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_the_balancer_and_finishes_what_runs() {
    let balanced = Balanced::start("puppet-handler", "").await;
    balanced.workers_become("idle", 1).await;
    let request = balanced.run_until("go");
    balanced.workers_become("running", 1).await;
    let control = async |what: &str| {
        let reply = Client::new().post(format!("{}/v2/lb/{what}", balanced.root)).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
    };
    control("pause").await;
    let refused = balanced.run(json!({"do": "ok"}), "").await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    assert!(refused.text().await.unwrap().contains("paused"));
    std::fs::write(balanced.file("go"), "").unwrap();
    assert_eq!(request.await.unwrap().status().as_u16(), 200);
    control("resume").await;
    assert_eq!(balanced.run(json!({"do": "ok"}), "").await.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_requests_and_tells_the_others_to_come_back() {
    let mut balanced = Balanced::start("puppet-handler", "").await;
    balanced.workers_become("idle", 1).await;
    let request = balanced.run_until("go");
    balanced.workers_become("running", 1).await;
    balanced.server.signal(Signal::TERM);
    balanced.server.logs("Stopping: workers finish their jobs").await;
    let refused = balanced.run(json!({"do": "ok"}), "").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    std::fs::write(balanced.file("go"), "").unwrap();
    assert_eq!(request.await.unwrap().status().as_u16(), 200);
    until("the server has ended", || !balanced.server.is_running()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_after_a_worker_was_killed_go_to_the_others_or_wait_for_the_next_one() {
    let balanced = Balanced::start("puppet-handler", "workers_min = 2\nworkers_max = 2").await;
    balanced.workers_become("idle", 2).await;
    for _ in 0..3 {
        let pid = pid_of_worker(&balanced, "lb-0").await;
        kill_process(pid, Signal::KILL).unwrap();
        until("the worker's process has ended", || kill_process(pid, Signal::CONT).is_err()).await;
        let replies = futures_util::future::join_all((0..4).map(|_| balanced.run(json!({"do": "ok"}), ""))).await;
        for reply in replies {
            let status = reply.status().as_u16();
            assert_eq!(status, 200, "{}", reply.text().await.unwrap());
        }
        balanced.workers_become("idle", 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_somebody_stops_is_not_unhealthy_while_it_finishes_its_request() {
    let balanced = Balanced::start("puppet-handler", "").await;
    balanced.workers_become("idle", 1).await;
    let request = balanced.run_until("go");
    balanced.workers_become("running", 1).await;
    let pid = pid_of_worker(&balanced, "lb-0").await;
    kill_process(pid, Signal::TERM).unwrap();
    balanced.server.logs("readiness=Draining").await;
    for _ in 0..20 {
        let workers = balanced.workers().await;
        assert_eq!((&workers["running"], &workers["unhealthy"]), (&json!(1), &json!(0)), "{workers}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::write(balanced.file("go"), "").unwrap();
    assert_eq!(request.await.unwrap().status().as_u16(), 200);
    // Another process takes its place.
    assert_eq!(balanced.run(json!({"do": "ok"}), "").await.status().as_u16(), 200);
    assert_eq!(balanced.workers().await["unhealthy"], 0);
}

/// The process that serves as this worker, found by its environment.
async fn pid_of_worker(balanced: &Balanced, id: &str) -> Pid {
    let wanted = format!("RUNPOD_POD_ID={id}");
    let server = balanced.server.pid().as_raw_nonzero().to_string();
    let is_it = |folder: &Path| {
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).map(str::to_owned);
        parent.as_deref() == Some(&*server)
            && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    eventually("the worker's process", async || {
        let folders = std::fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let pid = folders.filter(|folder| is_it(folder)).find_map(|folder| folder.file_name()?.to_str()?.parse().ok());
        pid.and_then(Pid::from_raw)
    })
    .await
}

/// Each balances over the workers that it has started, as many as its own requests need.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_share_a_database_balance_over_their_own_workers() {
    let Some(server) = Postgres::shared() else { return };
    let database = server.database();
    let (rest, flags) = ("workers_min = 0\nworkers_max = 1", ["--database", &*database]);
    let (a, b) = (Balanced::start_with("echo", rest, &flags).await, Balanced::start_with("echo", rest, &flags).await);
    let input = || json!({"text": "hi"});
    let (one, two) = tokio::join!(a.run(input(), ""), b.run(input(), ""));
    let workers = [one, two].map(|reply| reply.headers()["x-runpod-worker-id"].to_str().unwrap().to_owned());
    assert!(workers.iter().all(|worker| worker.starts_with("lb-") && worker.ends_with("-0")), "{workers:?}");
    assert_ne!(workers[0], workers[1]);
}
