//! An endpoint and a worker with a handler, joined by the environment variables that the platform sets.

use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Client, Daemon, binary, eventually};

/// Ports for tests lie below those that the kernel gives to outgoing connections, of which tests make thousands: one of them
/// would take the port between its choice and its use.
const PORTS: Range<u16> = 10_000..32_000;

/// The variable that official clients read.
const FOR_CLIENTS: &str = "RUNPOD_ENDPOINT_BASE_URL";

/// A TCP port that nothing listens on at this moment, and that no other test of this process is given.
///
/// # Panics
/// When the machine has none left.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Test processes that run at the same time begin at different places.
    let first = std::process::id() as usize * 97;
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + ((first + step) % PORTS.len()) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// A running `runpod-endpoint serve`.
#[derive(Debug)]
pub struct Endpoint {
    /// The process.
    pub daemon: Daemon,
    /// `http://127.0.0.1:PORT/v2`.
    pub base: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    folder: TempDir,
}

impl Endpoint {
    /// Starts one and waits until it answers.
    pub async fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[]).await
    }

    /// Starts one with additional environment variables, and waits until it answers.
    ///
    /// # Panics
    /// When its folder cannot be created.
    pub async fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap_or_else(|error| panic!("no folder: {error}")), args, env).await
    }

    /// Starts one that keeps its jobs in a file, and waits until it answers.
    ///
    /// # Panics
    /// When the folder cannot be created.
    pub async fn start_durable(args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no folder: {error}"));
        let data = folder.path().join("jobs.db").to_string_lossy().into_owned();
        Self::start_in(folder, &[args, &["--data", &data]].concat(), &[]).await
    }

    async fn start_in(folder: TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let port = free_port();
        let mut all = vec!["serve".to_owned(), "--bind".to_owned(), format!("127.0.0.1:{port}")];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let daemon = Daemon::start("endpoint", &binary("runpod-endpoint"), &all, &env);
        let endpoint = Self { daemon, base: format!("http://127.0.0.1:{port}/v2"), args: all, env, folder };
        endpoint.answers().await;
        endpoint
    }

    /// Ends it with this signal and starts it again as it was.
    pub async fn restart(&mut self, signal: Signal) {
        self.daemon.signal(signal);
        self.daemon.wait(Duration::from_secs(30));
        self.daemon = Daemon::start("endpoint", &binary("runpod-endpoint"), &self.args, &self.env);
        self.answers().await;
    }

    async fn answers(&self) {
        let url = format!("{}/test/health", self.base);
        eventually("the endpoint to answer", || async { reqwest::get(&url).await.ok() }).await;
    }

    /// A folder that lives as long as this, restarts included.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client of the endpoint id `test`.
    pub fn client(&self) -> Client {
        Client::new(&format!("{}/test", self.base))
    }

    /// A client of the endpoint id `local`, which `serve` prints.
    pub fn local(&self) -> Client {
        Client::new(&format!("{}/local", self.base))
    }

    /// The variables that `serve` prints for a worker of the endpoint id `local`.
    pub async fn printed_worker_env(&self) -> Vec<(String, String)> {
        // A shell would expand `worker-$$`.
        let value = |text: &str| Some(text.split(['\'', '"']).nth(1)?.replace("$$", "1"));
        let exports = |log: &str| -> Vec<(String, String)> {
            let lines = log.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
            lines.filter_map(|(name, text)| Some((name.to_owned(), value(text)?))).collect()
        };
        let mut env = eventually("the variables that serve prints", || async {
            // The last line is for clients; all those of the worker are before it.
            Some(exports(&self.daemon.log())).filter(|env| env.iter().any(|(name, _)| name == FOR_CLIENTS))
        })
        .await;
        env.retain(|(name, _)| name != FOR_CLIENTS);
        env
    }

    /// The variables that the platform would set for worker `id`.
    pub fn worker_env(&self, id: &str) -> Vec<(String, String)> {
        let mut env = worker_env(&format!("{}/test", self.base), id);
        // As long-lived as the endpoint, so that a worker started again with the same id finds its own.
        env.push(("RUNPOD_WORKER_SPOOL_DIR".to_owned(), self.folder().join("spool").to_string_lossy().into_owned()));
        env
    }
}

/// The variables that the platform would set for worker `id`; `base` is the part before `/job-take`.
pub fn worker_env(base: &str, id: &str) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/job-take/$ID?gpu=LOCAL")),
        pair("RUNPOD_WEBHOOK_POST_OUTPUT", format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=LOCAL")),
        pair("RUNPOD_WEBHOOK_POST_STREAM", format!("{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=LOCAL")),
        pair("RUNPOD_WEBHOOK_PING", format!("{base}/ping/$RUNPOD_POD_ID?gpu=LOCAL")),
        pair("RUNPOD_PING_INTERVAL", "1000".to_owned()),
        pair("RUNPOD_AI_API_KEY", "test-worker-key".to_owned()),
        pair("RUNPOD_POD_ID", id.to_owned()),
        // A machine that runs tests may have less free memory than a worker in production must.
        pair("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true".to_owned()),
    ]
}

/// How to start a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerOptions {
    /// Flags of `runpod-worker run`.
    pub flags: Vec<String>,
    /// Additional environment, seen by the handler too.
    pub env: Vec<(String, String)>,
    /// Address of the worker's own server instead of a free one.
    pub http_bind: Option<String>,
}

impl WorkerOptions {
    /// Options with these flags.
    pub fn flags(flags: &[&str]) -> Self {
        Self { flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Self::default() }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running `runpod-worker run`.
#[derive(Debug)]
pub struct Worker {
    /// The process.
    pub daemon: Daemon,
    /// `http://127.0.0.1:PORT` of its own server.
    pub http: String,
}

impl Worker {
    /// Starts one; does not wait for its handler.
    pub fn start(endpoint: &Endpoint, handler: &Path, options: WorkerOptions) -> Self {
        Self::start_with(endpoint.worker_env("worker-1"), handler, options)
    }

    /// Starts one that finds its queue and its name in `env`; does not wait for its handler.
    pub fn start_with(mut env: Vec<(String, String)>, handler: &Path, options: WorkerOptions) -> Self {
        let address = options.http_bind.unwrap_or_else(|| format!("127.0.0.1:{}", free_port()));
        let mut args = vec!["run".to_owned(), "--http-bind".to_owned(), address.clone()];
        args.extend(options.flags);
        args.push("--".to_owned());
        args.push(handler.to_string_lossy().into_owned());
        env.extend(options.env);
        let daemon = Daemon::start("worker", &binary("runpod-worker"), &args, &env);
        Self { daemon, http: format!("http://{address}") }
    }

    /// Its health document.
    pub async fn health(&self) -> Value {
        eventually("the worker's /health", || async {
            reqwest::get(format!("{}/health", self.http)).await.ok()?.json().await.ok()
        })
        .await
    }

    /// Its metrics as text.
    pub async fn metrics(&self) -> String {
        eventually("the worker's /metrics", || async {
            reqwest::get(format!("{}/metrics", self.http)).await.ok()?.text().await.ok()
        })
        .await
    }

    /// Waits until it can take jobs.
    pub async fn ready(&self) {
        let url = format!("{}/ready", self.http);
        eventually("the worker to be ready", || async {
            reqwest::get(&url).await.ok().filter(|reply| reply.status().is_success())
        })
        .await;
    }

    /// Process id of its handler, while there is one.
    pub async fn handler_pid(&self) -> Option<i32> {
        let health = self.health().await;
        health["worker"]["processes"][0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
    }
}

/// Endpoint, worker and handler, ready to take jobs.
#[derive(Debug)]
pub struct Stack {
    /// The worker; listed first so that it is dropped before its endpoint.
    pub worker: Worker,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// A client of the endpoint.
    pub client: Client,
}

impl Stack {
    /// Starts everything with the handler program of this name and waits until the worker is ready.
    pub async fn start(handler: &str, options: WorkerOptions) -> Self {
        let endpoint = Endpoint::start(&[]).await;
        let worker = Worker::start(&endpoint, &binary(handler), options);
        worker.ready().await;
        let client = endpoint.client();
        Self { worker, endpoint, client }
    }
}
