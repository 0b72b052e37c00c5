//! The official programs: the Python package as client and as worker, the JavaScript SDK and the OpenAI packages as clients.

use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::{Daemon, repository};
use serde_json::Value;

/// Python starts slowly on a busy machine, and a client makes many requests.
const CLIENT_LIMIT: Duration = Duration::from_secs(300);

/// A pinned version of the official Python package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Python {
    /// 1.12.0.
    V1,
    /// 2.0.0rc2, a pre-release.
    V2,
}

impl Python {
    /// Its folder in `.venv`.
    fn folder(self) -> &'static str {
        match self {
            Self::V1 => "runpod",
            Self::V2 => "runpod-2",
        }
    }
}

/// Runs a test with each version of the package, one after the other: Python needs a whole core to start.
pub(crate) async fn each<F: Future<Output = ()> + Send + 'static>(test: impl Fn(Python) -> F) {
    for version in [Python::V1, Python::V2] {
        let run = tokio::spawn(test(version)).await;
        run.unwrap_or_else(|error| panic!("with {version:?} of the package: {error}"));
    }
}

/// What `make python-client`, `make js-client`, `make openai-client` and `make openai-js-client` install.
fn installed(name: &str, inside: &str, target: &str) -> PathBuf {
    let folder = repository().join(".venv").join(name);
    assert!(folder.join(inside).is_dir(), "the official package is not installed: run `make {target}`");
    folder
}

/// The environment in which `import runpod` finds this version of the package.
fn python_env(version: Python) -> Vec<(String, String)> {
    packages_env(&installed(version.folder(), "runpod", "python-client"))
}

fn packages_env(packages: &Path) -> Vec<(String, String)> {
    vec![
        ("PYTHONPATH".to_owned(), packages.to_string_lossy().into_owned()),
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
    ]
}

fn script(name: &str) -> String {
    repository().join("tests/conformance").join(name).to_string_lossy().into_owned()
}

/// The official worker with the handler of this name from `worker.py`, in this environment of the platform. The group that it
/// leads has two processes: the heartbeat is a second one.
pub(crate) fn worker(version: Python, platform: Vec<(String, String)>, handler: &str) -> Daemon {
    let mut env = python_env(version);
    env.extend(platform);
    for (name, value) in [
        ("CONFORMANCE_HANDLER", handler),
        ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true"),
        ("RUNPOD_SKIP_GPU_CHECK", "true"),
    ] {
        env.push((name.to_owned(), value.to_owned()));
    }
    Daemon::start("worker.py", Path::new("python3"), &[script("worker.py")], &env)
}

/// What a Python client printed; `base` is the URL up to and including `/v2`.
pub(crate) fn python_client(version: Python, name: &str, base: &str, args: &[&str]) -> Value {
    let mut env = python_env(version);
    env.push(("RUNPOD_ENDPOINT_BASE_URL".to_owned(), base.to_owned()));
    env.push(("RUNPOD_API_BASE_URL".to_owned(), base.trim_end_matches("/v2").to_owned()));
    let args: Vec<String> = [script(name)].into_iter().chain(args.iter().map(|arg| (*arg).to_owned())).collect();
    printed(Daemon::start(name, Path::new("python3"), &args, &env))
}

/// What the JavaScript client printed.
pub(crate) fn javascript_client(base: &str) -> Value {
    let packages = installed("js", "node_modules/runpod-sdk", "js-client").to_string_lossy().into_owned();
    let args = [script("endpoint/client.mjs"), packages, base.to_owned()];
    printed(Daemon::start("client.mjs", Path::new("node"), &args, &[]))
}

/// An official OpenAI client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenAi {
    /// For Python.
    Python,
    /// For JavaScript.
    JavaScript,
}

/// What an official OpenAI client printed; `base` is the URL up to and including `/v1`. With `models`, only the failures of a chat
/// with each of them.
pub(crate) fn openai_client(client: OpenAi, base: &str, models: &[&str]) -> Value {
    let args = [base].into_iter().chain(models.iter().copied()).map(str::to_owned);
    printed(match client {
        OpenAi::Python => {
            let env = packages_env(&installed("openai", "openai", "openai-client"));
            let args: Vec<String> = [script("openai_client.py")].into_iter().chain(args).collect();
            Daemon::start("openai_client.py", Path::new("python3"), &args, &env)
        }
        OpenAi::JavaScript => {
            let packages = installed("openai-js", "node_modules/openai", "openai-js-client");
            let packages = packages.to_string_lossy().into_owned();
            let args: Vec<String> = [script("openai_client.mjs"), packages].into_iter().chain(args).collect();
            Daemon::start("openai_client.mjs", Path::new("node"), &args, &[])
        }
    })
}

/// The JSON document in the last line that a program prints.
fn printed(mut client: Daemon) -> Value {
    let status = client.wait(CLIENT_LIMIT);
    let log = client.log();
    assert!(status.success(), "the client failed:\n{log}");
    let last = log.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {log}"))
}
