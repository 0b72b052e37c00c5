//! The commands and code of the README are run as they are; only ports are changed.

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Client, Daemon, Endpoint, Worker, WorkerOptions, binary, eventually, free_port, repository};
use rustix::process::Signal;
use serde_json::json;

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).unwrap()
}

fn block(language: &str, word: &str) -> String {
    block_of("README.md", language, word)
}

/// The first fenced block of this language that contains `word`.
pub(crate) fn block_of(file: &str, language: &str, word: &str) -> String {
    let text = std::fs::read_to_string(repository().join(file)).unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    let found =
        blocks.filter_map(|block| block.split_once('\n')).find(|(tag, body)| *tag == language && body.contains(word));
    found.unwrap_or_else(|| panic!("no {language} block with {word} in {file}")).1.to_owned()
}

/// Runs a shell script as a reader of the documentation would.
pub(crate) fn shell(name: &str, script: &str, folder: &Path) -> Daemon {
    let programs = binary("echo").parent().unwrap().to_string_lossy().into_owned();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let script = format!("cd '{}' && {script}", folder.display());
    // A machine that runs tests may have less free memory than a worker in production must.
    let env = [("PATH".to_owned(), path), ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS".to_owned(), "true".to_owned())];
    Daemon::start(name, Path::new("/bin/sh"), &["-ec".to_owned(), script], &env)
}

/// A folder that looks like the repository after a build.
pub(crate) fn built_repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let debug = folder.path().join("target/debug");
    std::fs::create_dir_all(&debug).unwrap();
    std::os::unix::fs::symlink(binary("echo"), debug.join("echo")).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_tried_without_a_queue_and_behind_one() {
    let folder = built_repository();
    let block = block("sh", "runpod-worker test");
    let (alone, behind) = block.split_once("\n\n").unwrap();
    let mut test = shell("README: test", alone, folder.path());
    assert!(test.wait(Duration::from_secs(60)).success());
    assert!(test.log().contains("\"text\": \"hello\""), "{}", test.log());

    let port = free_port().to_string();
    let dev = format!("dev --bind 127.0.0.1:{port} --worker-http-port 0 --");
    let behind = behind.replace("dev --", &dev).replace(":8000", &format!(":{port}"));
    let (start, curl) = behind.split_once('\n').unwrap();
    let start = start.split('#').next().unwrap();
    let mut dev = shell("README: dev", &format!("exec {start}"), folder.path());
    let url = format!("http://127.0.0.1:{port}/v2/local/health");
    eventually("the endpoint of the README to answer", || async { reqwest::get(&url).await.ok() }).await;
    let mut curl = shell("README: curl", curl, folder.path());
    assert!(curl.wait(Duration::from_secs(60)).success());
    assert!(curl.log().contains("\"output\":{\"text\":\"hello\"}"), "{}", curl.log());
    // As Ctrl-C does: the worker goes with it.
    dev.signal(Signal::TERM);
    assert!(dev.wait(Duration::from_secs(60)).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_is_used_as_shown() {
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("echo"), WorkerOptions::default());
    worker.ready().await;
    let script = block("python", "import runpod")
        .replace("http://127.0.0.1:8000/v2", &endpoint.base)
        .replace("\"local\"", "\"test\"");
    let packages = repository().join(".venv/runpod");
    assert!(packages.join("runpod").is_dir(), "the official Python package is not installed: run `make python-client`");
    let env = [("PYTHONPATH".to_owned(), packages.to_string_lossy().into_owned())];
    let mut python = Daemon::start("README: python", Path::new("python3"), &["-c".to_owned(), script], &env);
    assert!(python.wait(Duration::from_secs(60)).success());
    assert!(python.log().contains("{'text': 'hello'}"), "{}", python.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_that_the_operations_guide_shows_is_what_operators_see() {
    let endpoint = Endpoint::start(&[]).await;
    let worker = Worker::start(&endpoint, &binary("echo"), WorkerOptions::default());
    worker.ready().await;
    let script = block("sh", "/metrics").replace("http://127.0.0.1:8001", &worker.http);
    let folder = tempfile::tempdir().unwrap();
    let mut curl = shell("README: operators", &script, folder.path());
    assert!(curl.wait(Duration::from_secs(60)).success());
    for word in ["\"inProgress\":0", "\"state\":\"idle\"", "runpod_jobs_total"] {
        assert!(curl.log().contains(word), "no {word} in {}", curl.log());
    }
    let client: Client = endpoint.client();
    assert_eq!(client.run(json!({"text": "hello"})).await["output"], json!({"text": "hello"}));
}

#[test]
fn the_handler_is_that_of_the_example() {
    let example = std::fs::read_to_string(repository().join("examples/echo/src/main.rs")).unwrap();
    let code = example.split_once("\n\n").unwrap().1;
    assert!(readme().contains(code.trim()), "the handler in README.md differs from examples/echo/src/main.rs");
}

#[test]
fn the_demo_prints_the_headings_that_are_shown() {
    let demo = std::fs::read_to_string(repository().join("examples/text-embeddings/demo.sh")).unwrap();
    let shown = block("text", "cosine similarity");
    let headings: Vec<&str> = shown.lines().filter_map(|line| line.strip_prefix("== ")).collect();
    assert_eq!(headings.len(), 3, "{shown}");
    for heading in headings {
        assert!(demo.contains(&format!("heading \"{heading}\"")), "make demo prints no {heading:?}");
    }
}
