//! `runpod-worker new` as a stranger uses it: in a folder outside of this repository, with every command of the README that it
//! writes. Only `docker build` is left to `make image-test`.
//!
//! The crates of one test share a target folder, because their dependencies are the same.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::{binary, eventually, free_port, repository, run_tool_in};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::readme::shell;

/// A build of the SDK and all its dependencies, on a busy machine.
const LONG: Duration = Duration::from_secs(1200);

/// The crates that a handler needs, dependencies first.
const PACKAGES: [&str; 3] = ["runpod-handler-protocol", "runpod-address-guard", "runpod-handler-sdk"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run_tool_in(folder, program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A folder for new crates.
struct Elsewhere {
    folder: TempDir,
}

impl Elsewhere {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    /// `runpod-worker new NAME FLAGS`.
    fn create(&self, name: &str, flags: &[&str]) -> PathBuf {
        let worker = binary("runpod-worker").to_string_lossy().into_owned();
        succeed(self.folder.path(), &worker, &[&["new", name], flags].concat());
        let root = self.folder.path().join(name);
        succeed(&root, "cargo", &["fmt", "--check"]);
        // The versions that are known to work together, and are here.
        std::fs::copy(repository().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
        std::fs::create_dir_all(self.target()).unwrap();
        symlink(self.target(), root.join("target")).unwrap();
        root
    }
}

/// The commands of the crate's README, as they are.
fn commands(root: &Path) -> Vec<String> {
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.split("  #").next().unwrap_or(line).trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Without the network and without the libtorch of this repository.
fn in_shell(name: &str, root: &Path, command: &str) -> end_to_end_tests::Daemon {
    let setup = "unset LIBTORCH CARGO_TARGET_DIR && export CARGO_NET_OFFLINE=true";
    shell(name, &format!("{setup} && {command}"), root)
}

/// Runs every command of the README. Answers the output of the job that `curl` has sent.
async fn follow_readme(root: &Path) -> Value {
    let name = root.file_name().unwrap().to_string_lossy().into_owned();
    let port = free_port().to_string();
    let (mut output, mut running) = (Value::Null, None);
    for command in commands(root) {
        let as_it_is = command.replace(":8000", &format!(":{port}"));
        if command.starts_with("docker ") {
            assert_eq!(command, format!("docker build --tag {name} ."), "make image-test builds it");
        } else if let Some(rest) = command.strip_prefix("runpod-endpoint dev ") {
            let command = format!("exec runpod-endpoint dev --bind 127.0.0.1:{port} --worker-http-port 0 {rest}");
            running = Some(in_shell("dev", root, &command));
            let url = format!("http://127.0.0.1:{port}/v2/local/health");
            eventually("the endpoint of the README", || async { reqwest::get(&url).await.ok() }).await;
        } else {
            let mut done = in_shell(&command, root, &as_it_is);
            assert!(done.wait(LONG).success(), "{command}: {}", done.log());
            if command.starts_with("curl ") {
                let log = done.log();
                let job = log.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
                assert_eq!(job["status"], "COMPLETED", "{log}");
                output = job["output"].clone();
            }
        }
    }
    let mut dev = running.unwrap_or_else(|| panic!("the README of {name} does not start dev"));
    dev.signal(Signal::TERM);
    assert!(dev.wait(LONG).success());
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_for_a_new_handler_works() {
    let elsewhere = Elsewhere::new();
    for kind in ["function", "handler", "batch", "step", "async"] {
        let root = elsewhere.create(&format!("my-{kind}"), &["--kind", kind]);
        let output = follow_readme(&root).await;
        assert_eq!(output["greetings"], json!(["Hello, Ada!", "Hello, Grace!"]), "{kind}: {output}");
    }
    // With the packages as they will be published, so that what a package lacks is missed here.
    let root = elsewhere.create("published", &["--sdk", "version"]);
    let patches = published(elsewhere.folder.path());
    succeed(
        &root,
        "cargo",
        &[&["build", "--quiet", "--offline"], &*patches.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
    );
}

/// Packs the crates and unpacks them again. Answers cargo's arguments that let them stand for the published ones.
fn published(folder: &Path) -> Vec<String> {
    let target = folder.join("packages").to_string_lossy().into_owned();
    let mut arguments =
        vec!["package", "--no-verify", "--allow-dirty", "--locked", "--offline", "--target-dir", &target];
    for package in PACKAGES {
        arguments.extend(["--package", package]);
    }
    succeed(&repository(), "cargo", &arguments);
    let mut patches = Vec::new();
    for package in PACKAGES {
        let archive = format!("{target}/package/{package}-{}.crate", env!("CARGO_PKG_VERSION"));
        succeed(folder, "tar", &["-xzf", &archive]);
        let unpacked = folder.join(format!("{package}-{}", env!("CARGO_PKG_VERSION")));
        patches.extend(["--config".to_owned(), format!("patch.crates-io.{package}.path={unpacked:?}")]);
    }
    patches
}

/// The same on libtorch: installed by its command, a model on the device that the SDK chooses.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_for_a_new_handler_on_libtorch_works() {
    let elsewhere = Elsewhere::new();
    let root = elsewhere.create("my-handler", &["--torch"]);
    // Before anything is compiled.
    let mut build = in_shell("without libtorch", &root, "cargo build");
    assert!(!build.wait(LONG).success());
    let said = build.log();
    assert!(said.contains("run `runpod-worker libtorch`"), "{said}");
    assert!(!said.contains("Compiling") && said.lines().count() < 6, "{said}");

    // Downloaded once is enough.
    symlink(repository().join(".libtorch"), root.join(".libtorch")).unwrap();
    let output = follow_readme(&root).await;
    assert_eq!(output["probabilities"][0].as_array().map(Vec::len), Some(3), "{output}");

    // The program finds libtorch wherever it lies, also as a part of a workspace.
    let libtorch = root.join(".libtorch/torch").to_string_lossy().into_owned();
    let member = elsewhere.create("top/batches", &["--torch", "--kind", "batch"]);
    let top = member.parent().unwrap();
    std::fs::write(top.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"batches\"]\n").unwrap();
    std::fs::rename(member.join("Cargo.lock"), top.join("Cargo.lock")).unwrap();
    let target = elsewhere.target().to_string_lossy().into_owned();
    let env = [format!("LIBTORCH={libtorch}"), format!("CARGO_TARGET_DIR={target}")];
    for command in ["test", "build"] {
        succeed(top, "env", &[&env[0], &env[1], "LIBTORCH_BYPASS_VERSION_CHECK=1", "cargo", command, "--offline"]);
    }
    let worker = binary("runpod-worker").to_string_lossy().into_owned();
    let program = format!("{target}/debug/batches");
    let result = succeed(&member, "env", &["RUNPOD_SKIP_AUTO_SYSTEM_CHECKS=true", &worker, "test", "--", &program]);
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["output"]["probabilities"].as_array().map(Vec::len), Some(2), "{result}");
}
