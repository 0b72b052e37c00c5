//! `runpod-worker new` as a stranger uses it: outside of this repository, against the packages as they would be published.

use std::path::Path;

use end_to_end_tests::{binary, repository, run_tool_in};

/// The crates that a handler needs, dependencies first.
const PACKAGES: [&str; 2] = ["runpod-handler-protocol", "runpod-handler-sdk"];

/// Packs the crates and unpacks them again, so that what the package lacks is missed here. Answers cargo's arguments that let
/// them stand for the published ones.
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

fn succeed(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run_tool_in(folder, program, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Writes a crate, builds and tests it, runs its job and answers the result's output.
fn new_handler(flags: &[&str], before: impl FnOnce(&Path)) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let patches = published(folder.path());
    let worker = binary("runpod-worker").to_string_lossy().into_owned();
    succeed(folder.path(), &worker, &[&["new", "my-handler"], flags].concat());
    let root = folder.path().join("my-handler");
    // The versions that are known to work together, and are here.
    std::fs::copy(repository().join("Cargo.lock"), root.join("Cargo.lock")).unwrap();
    before(&root);
    let patches: Vec<&str> = patches.iter().map(String::as_str).collect();
    for command in ["test", "build"] {
        // Without the libtorch of this repository.
        let cargo = ["-u", "LIBTORCH", "cargo", command, "--quiet", "--offline"];
        succeed(&root, "env", &[&cargo[..], &patches[..]].concat());
    }
    succeed(&root, "cargo", &["fmt", "--check"]);
    let result = succeed(&root, &worker, &["test", "--", "target/debug/my-handler"]);
    serde_json::from_str::<serde_json::Value>(&result).unwrap()["output"].take()
}

#[test]
fn a_new_handler_builds_passes_its_tests_and_runs_its_job() {
    let output = new_handler(&[], |_| {});
    assert_eq!(output["greetings"], serde_json::json!(["Hello, Ada!", "Hello, Grace!"]), "{output}");
}

/// The same on libtorch: installed by the same script, a model on the device that the SDK chooses.
#[test]
fn a_new_handler_on_libtorch_builds_passes_its_tests_and_runs_its_job() {
    let output = new_handler(&["--torch"], |root| {
        // Downloaded once is enough.
        std::os::unix::fs::symlink(repository().join(".libtorch"), root.join(".libtorch")).unwrap();
        succeed(root, "docker/install-libtorch.sh", &[]);
    });
    assert_eq!(output["probabilities"][0].as_array().unwrap().len(), 3, "{output}");
}
