//! An unpacked image, and processes started from it as its configuration says.

use std::path::PathBuf;
use std::time::Duration;

use end_to_end_tests::{Daemon, Endpoint, Worker, free_port, repository, run_tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The image under test, unpacked by `run.sh`.
pub(crate) struct Image {
    root: PathBuf,
    /// What `docker image inspect` calls `Config`.
    pub(crate) config: Value,
}

/// How a container of it is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Numeric user and group.
    pub(crate) user: &'static str,
    /// Whether its root file system can be written to.
    pub(crate) read_only: bool,
}

impl Image {
    pub(crate) fn under_test() -> Self {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (Some(root), Some(config)) = (variable("IMAGE_ROOT"), variable("IMAGE_CONFIG")) else {
            panic!("IMAGE_ROOT and IMAGE_CONFIG are not set: start this test with `make image-test`");
        };
        let config = serde_json::from_str(&std::fs::read_to_string(config).unwrap()).unwrap();
        Self { root, config }
    }

    /// A file or folder is inside.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The CUDA half of libtorch is inside.
    pub(crate) fn has_cuda(&self) -> bool {
        self.has("opt/libtorch/torch/lib/libtorch_cuda.so")
    }

    /// The command with which an engine checks the health of the container.
    pub(crate) fn health_check(&self) -> Vec<String> {
        let words: Vec<String> = serde_json::from_value(self.config["Healthcheck"]["Test"].clone()).unwrap();
        assert_eq!(words[0], "CMD", "{words:?}");
        words[1..].to_vec()
    }

    /// A list in the configuration, such as `Entrypoint`.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let items = self.config[name].as_array().unwrap_or_else(|| panic!("no {name} in {}", self.config));
        items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    /// Runs a command in a new container and waits for it: exit code, and everything it wrote.
    pub(crate) fn run(&self, start: Start, env: &[(String, String)], command: &[&str]) -> (Option<i32>, String) {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let args = self.enter(start, env, &command);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = run_tool("tests/image/enter.sh", &args);
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    }

    /// Starts a command in a new container.
    pub(crate) fn start(&self, name: &str, start: Start, env: &[(String, String)], command: &[String]) -> Daemon {
        let script = repository().join("tests/image/enter.sh");
        Daemon::start(name, &script, &self.enter(start, env, command), &[])
    }

    /// Starts what the image starts, joined to an endpoint by the platform's variables.
    pub(crate) fn start_worker(&self, endpoint: &Endpoint, start: Start, env: &[(String, String)]) -> Container {
        let address = format!("127.0.0.1:{}", free_port());
        let mut env = env.to_vec();
        env.push(("RUNPOD_WORKER_HTTP_BIND".to_owned(), address.clone()));
        // The harness's folder for the spool is outside of the container.
        env.extend(endpoint.worker_env("worker-1").into_iter().filter(|(name, _)| name != "RUNPOD_WORKER_SPOOL_DIR"));
        let command = [self.list("Entrypoint"), self.list("Cmd")].concat();
        let daemon = self.start("container", start, &env, &command);
        Container { worker: Worker { daemon, http: format!("http://{address}") }, env }
    }

    /// A handler author's first minutes with their image, as its own user: the worker is ready and healthy, runs a job, and stops
    /// when asked. Answers the job's status.
    pub(crate) async fn does_one_job(&self, input: Value) -> Value {
        let endpoint = Endpoint::start(&[]).await;
        let start = Start { user: "10001:10001", read_only: false };
        let mut container = self.start_worker(&endpoint, start, &on("cpu"));
        container.worker.ready().await;
        let done = endpoint.client().run(input).await;

        let health_check = self.health_check();
        let command: Vec<&str> = health_check.iter().map(String::as_str).collect();
        let (code, text) = self.run(start, &container.env, &command);
        assert_eq!((code, text.trim()), (Some(0), r#"{"state":"live"}"#));
        signal(&container.worker.daemon, Signal::TERM);
        let status = container.worker.daemon.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(0), "{}", container.worker.daemon.log());
        done
    }

    /// Arguments of `enter.sh`.
    fn enter(&self, start: Start, env: &[(String, String)], command: &[String]) -> Vec<String> {
        let mode = if start.read_only { "ro" } else { "rw" };
        let folder = self.config["WorkingDir"].as_str().filter(|folder| !folder.is_empty()).unwrap_or("/");
        let mut args = vec![self.root.to_str().unwrap().to_owned(), start.user.to_owned(), mode.to_owned()];
        args.push(folder.to_owned());
        args.extend(self.list("Env"));
        args.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
        args.push("--".to_owned());
        args.extend_from_slice(command);
        args
    }
}

/// A running worker.
pub(crate) struct Container {
    pub(crate) worker: Worker,
    /// What it was given beside the image's own environment.
    pub(crate) env: Vec<(String, String)>,
}

/// PID 1 of a container.
pub(crate) fn first_process(container: &Daemon) -> Pid {
    let outside = container.pid().as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
    let first = children.split_whitespace().next().unwrap().parse().unwrap();
    Pid::from_raw(first).unwrap()
}

/// Sends it a signal, as an engine does.
pub(crate) fn signal(container: &Daemon, signal: Signal) {
    kill_process(first_process(container), signal).unwrap();
}

/// An image with CUDA refuses to run without a GPU, which the machine that tests it need not have. That machine may also have
/// less free memory and disk than a worker in production must, and be busy.
pub(crate) fn on(device: &str) -> Vec<(String, String)> {
    [
        ("RUNPOD_WORKER_DEVICE", device),
        ("RUNPOD_MIN_MEMORY_GB", "0.1"),
        ("RUNPOD_MIN_DISK_PERCENT", "0"),
        ("RUNPOD_WORKER_DRAIN_GRACE", "120s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
