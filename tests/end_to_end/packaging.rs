//! Promises about the shape of the code and of what is built from it.

use std::path::{Path, PathBuf};

use end_to_end_tests::{binary, repository, run_tool};

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[test]
fn the_worker_never_links_libtorch() {
    let tree = run_tool("cargo", &["tree", "--package", "runpod-worker", "--edges", "normal", "--prefix", "none"]);
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    assert!(tree.contains("tokio v"), "cargo tree does not work: {tree}");
    let forbidden = tree
        .lines()
        .find(|line| ["tch ", "torch-sys ", "runpod-handler-sdk "].iter().any(|name| line.starts_with(name)));
    assert_eq!(forbidden, None);

    for (program, expected) in [("runpod-worker", false), ("runpod-endpoint", false), ("text-embeddings", true)] {
        let path = binary(program);
        let dynamic = run_tool("readelf", &["--dynamic", "--wide", &path.to_string_lossy()]);
        let dynamic = String::from_utf8_lossy(&dynamic.stdout).into_owned();
        assert!(dynamic.contains("libc.so"), "readelf does not work: {dynamic}");
        let links = dynamic.lines().any(|line| line.contains("NEEDED") && line.contains("torch"));
        assert_eq!(links, expected, "{program} and libtorch:\n{dynamic}");
    }
}

#[test]
fn the_core_is_pure() {
    let banned = [
        "tokio",
        "reqwest",
        "axum",
        "tracing::",
        "std::fs",
        "std::io",
        "std::net",
        "std::thread",
        "std::env",
        "Instant",
        "SystemTime",
    ];
    let core = sources(&repository().join("worker/src/core"));
    assert!(core.len() > 10, "the core is elsewhere");
    for (path, text) in core {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = banned.iter().find(|word| line.contains(*word));
            assert_eq!(found, None, "{}: {line}", path.display());
        }
    }
}

#[test]
fn one_place_per_program_starts_processes() {
    let mut places = Vec::new();
    for package in ["worker", "endpoint", "handler-sdk"] {
        for (path, text) in sources(&repository().join(package).join("src")) {
            if text.contains("disallowed_methods") {
                places.push(path.strip_prefix(repository()).unwrap().display().to_string());
            }
        }
    }
    places.sort();
    assert_eq!(places, ["endpoint/src/dev/spawn.rs", "worker/src/process/spawn.rs"]);
}
