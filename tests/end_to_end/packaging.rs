//! Promises about the shape of the code and of what is built from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use end_to_end_tests::{binary, repository, run_tool};
use serde_json::Value;

fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let sources = files(folder).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    sources.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// A file that is built in and left out of the package is missed only by those who build the package.
#[test]
fn packages_have_what_is_built_in() {
    for (package, folder, built_in) in [
        ("runpod-worker", "worker", "templates"),
        ("runpod-handler-sdk", "handler-sdk", "shim"),
        ("runpod-endpoint", "endpoint", "src/console/assets"),
        ("runpod-endpoint", "endpoint", "src/store/sqlite"),
    ] {
        let list = run_tool("cargo", &["package", "--list", "--allow-dirty", "--offline", "--package", package]);
        let list = String::from_utf8(list.stdout).unwrap();
        let folder = repository().join(folder);
        let wanted = files(&folder.join(built_in));
        assert!(!wanted.is_empty(), "{package} has no {built_in}");
        for file in wanted {
            let name = file.strip_prefix(&folder).unwrap().to_string_lossy().into_owned();
            assert!(list.lines().any(|line| line == name), "the package {package} lacks {name}");
        }
    }
}

#[test]
fn every_crate_that_is_published_is_in_the_makefile_and_has_its_licences() {
    let makefile = std::fs::read_to_string(repository().join("Makefile")).unwrap();
    let (_, bill_of_materials) = makefile.split_once("\nsbom:").unwrap();
    let metadata = run_tool("cargo", &["metadata", "--no-deps", "--format-version", "1", "--offline"]);
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let published = metadata["packages"].as_array().unwrap().iter().filter(|package| package["publish"].is_null());
    let mut count = 0;
    for package in published {
        let name = package["name"].as_str().unwrap();
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
        let relative = folder.strip_prefix(repository()).unwrap().display().to_string();
        let lists = |text: &str, name: &str| text.split_whitespace().any(|word| word.trim_end_matches(';') == name);
        assert!(lists(&makefile, name), "`make package` does not pack {name}");
        assert!(lists(bill_of_materials, &relative), "`make sbom` leaves out {relative}");
        for licence in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            assert!(folder.join(licence).is_file(), "{relative} has no {licence}");
        }
        count += 1;
    }
    assert!(count > 5, "only {count} crates are published");
}

/// The features that each crate of other people is compiled with, as often as it is.
fn features(edges: &str) -> BTreeMap<String, BTreeSet<String>> {
    let args = [
        "tree",
        "--workspace",
        "--offline",
        "--no-dedupe",
        "--prefix",
        "none",
        "--format",
        "{p}|{f}",
        "--edges",
        edges,
    ];
    let tree = String::from_utf8(run_tool("cargo", &args).stdout).unwrap();
    let mut features: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (package, list) in tree.lines().filter(|line| !line.contains("(/")).filter_map(|line| line.split_once('|')) {
        features.entry(package.to_owned()).or_default().insert(list.to_owned());
    }
    assert!(features.len() > 300, "cargo tree does not work: {tree}");
    features
}

/// `make test` builds the programs and then the tests. A feature that only a test asks for would make a second copy of its crate and of
/// everything on top of that, our own crates included.
#[test]
fn tests_need_no_second_build_of_what_the_programs_are_made_of() {
    let programs = features("normal,build");
    for (package, lists) in features("normal,build,dev") {
        let Some(built) = programs.get(&package) else { continue };
        let more: Vec<&String> = lists.difference(built).collect();
        assert!(
            more.is_empty(),
            "tests ask for {package} with {more:?}, programs have {built:?}: see tokio in tests/Cargo.toml"
        );
    }
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
fn one_place_per_program_starts_processes() {
    let mut places = Vec::new();
    for package in ["worker", "endpoint", "handler-sdk"] {
        for (path, text) in sources(&repository().join(package).join("src")) {
            if text.contains("disallowed_methods") && text.contains("Command") {
                places.push(path.strip_prefix(repository()).unwrap().display().to_string());
            }
        }
    }
    places.sort();
    assert_eq!(places, ["endpoint/src/fleet/process.rs", "worker/src/process/spawn.rs"]);
}

#[test]
fn every_test_that_the_reliability_table_names_exists() {
    let table = std::fs::read_to_string(repository().join("docs/reliability.md")).unwrap();
    let mut tests = String::new();
    for folder in ["tests", "worker/src", "worker/core/src", "endpoint/src", "endpoint/tests"] {
        sources(&repository().join(folder)).into_iter().for_each(|(_, text)| tests.push_str(&text));
    }
    // Names in code style, with words in between, are names of tests.
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 2).collect();
    assert!(named.len() > 40, "the table is elsewhere");
    for name in named {
        assert!(tests.contains(&format!("fn {name}(")), "docs/reliability.md names `{name}`, which does not exist");
    }
}
