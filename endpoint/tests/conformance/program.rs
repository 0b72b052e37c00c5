//! The real endpoint program, and the official programs that talk to it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A limit for whatever must happen; generous, because Python starts slowly on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Lines of a worker's log that are kept.
const LOG_LINES: usize = 10_000;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// What `make` installs beside the sources.
pub(crate) fn installed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.venv").join(name)
}

fn command(program: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the tests run the programs under test")]
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RUNPOD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running endpoint.
pub(crate) struct Endpoint {
    pub(crate) base: String,
    worker_env: Vec<(String, String)>,
    http: reqwest::Client,
    _process: Child,
}

impl Endpoint {
    /// Starts `serve` on a free port and reads the worker variables that it prints.
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::start_in(&folder(), args).await
    }

    /// The same with another working folder.
    pub(crate) async fn start_in(folder: &Path, args: &[&str]) -> Self {
        let mut command = command(env!("CARGO_BIN_EXE_runpod-endpoint"));
        command.current_dir(folder);
        command.args(["serve", "--bind", "127.0.0.1:0", "--hold", "3s"]).args(args);
        let mut process = command.env("RUST_LOG", "error").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (mut base, mut worker_env) = (String::new(), Vec::new());
        let reading = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(url) = line.strip_prefix("RunPod-compatible endpoint: ") {
                    base = url.to_owned();
                } else if let Some((name, value)) = line.strip_prefix("export ").and_then(|line| line.split_once('=')) {
                    if name == "RUNPOD_ENDPOINT_BASE_URL" {
                        break;
                    }
                    worker_env.push((name.to_owned(), value.trim_matches('\'').to_owned()));
                }
            }
        };
        timeout(SOON, reading).await.unwrap();
        Self { base, worker_env, http: reqwest::Client::new(), _process: process }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let reply = timeout(SOON, self.http.get(format!("{}/{path}", self.base)).send()).await.unwrap().unwrap();
        serde_json::from_str(&reply.text().await.unwrap()).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}/{path}", self.base)).body(body.to_string());
        let reply = timeout(SOON, request.send()).await.unwrap().unwrap();
        serde_json::from_str(&reply.text().await.unwrap()).unwrap()
    }

    pub(crate) async fn run(&self, input: &Value) -> String {
        let reply = self.post("run", &serde_json::json!({"input": input})).await;
        reply["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn runsync(&self, input: &Value) -> Value {
        self.post("runsync", &serde_json::json!({"input": input})).await
    }

    /// Asks until the document fits.
    pub(crate) async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let asking = async {
            loop {
                last = self.get(path).await;
                if fits(&last) {
                    return last.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        match timeout(SOON, asking).await {
            Ok(found) => found,
            Err(_) => panic!("{path} stayed {last}"),
        }
    }

    /// The official worker with the handler of this name; `env` replaces what the endpoint recommends, an empty
    /// value removes it.
    pub(crate) fn worker(&self, handler: &str, env: &[(&str, &str)]) -> OfficialWorker {
        let mut command = python("worker.py");
        command.envs(self.worker_env.iter().cloned()).env("CONFORMANCE_HANDLER", handler);
        command.env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true").env("RUNPOD_SKIP_GPU_CHECK", "true");
        command.env("RUNPOD_PING_INTERVAL", "1000");
        for (name, value) in env {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        // A group of its own: the heartbeat is a second process.
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (sender, log) = mpsc::channel(LOG_LINES);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // Nobody may be listening; the worker must be able to go on all the same.
                let _ = sender.try_send(line);
            }
        });
        OfficialWorker { process, log }
    }

    /// What the official client saw in this mode.
    pub(crate) async fn client(&self, args: &[&str]) -> Value {
        let mut command = python("client.py");
        let base = self.base.trim_end_matches("/local");
        command
            .env("RUNPOD_ENDPOINT_BASE_URL", base)
            .env("RUNPOD_API_BASE_URL", base.trim_end_matches("/v2"))
            .args(args);
        printed(command).await
    }

    /// What the official JavaScript SDK saw.
    pub(crate) async fn javascript_client(&self) -> Value {
        let mut command = command("node");
        command.arg(folder().join("client.mjs")).arg(installed("js")).arg(self.base.trim_end_matches("/local"));
        printed(command).await
    }
}

/// The JSON document in the last line that a program prints.
async fn printed(mut command: Command) -> Value {
    let output = timeout(4 * SOON, command.output()).await.unwrap().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}\n{errors}"))
}

fn python(script: &str) -> Command {
    let packages = installed("runpod");
    assert!(packages.join("runpod").is_dir(), "the official Python package is not installed: run `make python-client`");
    let mut command = command("python3");
    command.arg(folder().join(script)).env("PYTHONPATH", packages).env("PYTHONUNBUFFERED", "1");
    command
}

/// A running official worker.
pub(crate) struct OfficialWorker {
    process: Child,
    log: mpsc::Receiver<String>,
}

impl OfficialWorker {
    /// Waits until its log says so.
    pub(crate) async fn says(&mut self, part: &str) {
        let reading = async {
            while let Some(line) = self.log.recv().await {
                if line.contains(part) {
                    return;
                }
            }
            panic!("the worker ended and never said {part}");
        };
        timeout(SOON, reading).await.unwrap();
    }

    /// Kills it as a crash of the machine would, heartbeats included.
    pub(crate) fn crash(&self) {
        if let Some(pid) = self.process.id().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().unwrap())) {
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
        }
    }

    /// How it ended by itself.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        timeout(SOON, self.process.wait()).await.unwrap().unwrap()
    }
}

impl Drop for OfficialWorker {
    fn drop(&mut self) {
        self.crash();
    }
}
