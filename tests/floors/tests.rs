//! The tests: the packages as they are, and that what is forbidden would be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use end_to_end_tests::repository;

use crate::floors::{TABLE, read_table};
use crate::imports::Imports;
use crate::modules::{Files, Folder};

#[test]
fn no_module_imports_a_higher_floor_and_no_files_import_each_other_in_a_circle() {
    let mut problems = Vec::new();
    for package in read_table(TABLE) {
        let folder = repository().join(&package.folder);
        let manifest = std::fs::read_to_string(folder.join("../Cargo.toml")).unwrap();
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"');
        let imports = Imports::read(&Folder(folder), &name.replace('-', "_"));
        assert!(!imports.edges.is_empty(), "{}: the imports are not found", package.folder);
        problems.extend(package.problems(&imports));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Examples and tests are programs without modules that others build on.
#[test]
fn every_package_but_examples_and_tests_has_its_floors() {
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    let members = members
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|member| !member.starts_with("examples/") && !member.starts_with("tests"));
    let members: BTreeSet<String> = members.map(|member| format!("{member}/src")).collect();
    let listed: BTreeSet<String> = read_table(TABLE).into_iter().map(|package| package.folder).collect();
    assert_eq!(listed, members);
}

#[test]
fn the_architecture_quotes_the_table() {
    let text = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    assert!(
        text.contains(&format!("```text\n{}\n```", TABLE.trim())),
        "copy tests/floors/floors.txt to ARCHITECTURE.md"
    );
}

/// Files in memory.
struct Fixture(BTreeMap<&'static str, &'static str>);

impl Files for Fixture {
    fn read(&self, file: &Path) -> Option<String> {
        Some((*self.0.get(file.to_str()?)?).to_owned())
    }
}

const HOUSE: &str = "
house/src/
  main
  attic
  middle
  [cellar]
  lib
";

/// The problems of a house with these files besides a `main.rs` and a `lib.rs` that declares three modules.
fn problems(files: &[(&'static str, &'static str)]) -> Vec<String> {
    let roots = [
        ("main.rs", "fn main() { house::attic::run(); }"),
        ("lib.rs", "pub mod attic; pub mod middle; pub mod cellar; pub struct Brick;"),
        ("attic.rs", "use crate::middle::Stairs; pub fn run() { let _: Option<Stairs> = None; }"),
        ("middle.rs", "pub struct Stairs(crate::cellar::Wine);"),
        ("cellar/mod.rs", "mod barrel; mod shelf; pub use barrel::Wine;"),
        ("cellar/barrel.rs", "pub struct Wine(Option<super::shelf::Board>);"),
        ("cellar/shelf.rs", "pub struct Board(crate::Brick);"),
    ];
    let files: BTreeMap<_, _> = roots.iter().chain(files).copied().collect();
    let [package] = <[_; 1]>::try_from(read_table(HOUSE)).unwrap();
    package.problems(&Imports::read(&Fixture(files), "house"))
}

/// The one problem of such a house.
fn problem(files: &[(&'static str, &'static str)]) -> String {
    let [problem] = <[_; 1]>::try_from(problems(files)).unwrap();
    problem
}

#[test]
fn imports_that_go_down_are_allowed() {
    assert_eq!(problems(&[]), [""; 0]);
}

#[test]
fn an_import_of_a_higher_floor_is_found_however_it_is_written() {
    const UPWARD: &str = "house/src: cellar/shelf.rs → attic.rs (run): `cellar` may not import `attic`";
    for shelf in [
        "use crate::attic::run; pub struct Board(crate::Brick);",
        "use crate::{attic::{self as top}, Brick}; pub struct Board(Brick); fn up() { top::run() }",
        "use super::super::attic; pub struct Board(crate::Brick); fn up() { attic::run() }",
        "pub struct Board(crate::Brick); fn up() { crate::attic::run() }",
        "pub struct Board(crate::Brick); fn up() { println!(\"{:?}\", crate::attic::run()) }",
        "pub struct Board(crate::Brick); fn up() { use crate::attic::*; run() }",
        "pub struct Board(crate::Brick); mod inner { fn up() { super::super::super::attic::run() } }",
        "#[serde(with = \"crate::attic::run\")] pub struct Board(crate::Brick);",
    ] {
        let found = problems(&[("cellar/shelf.rs", shelf)]);
        assert!(found.contains(&UPWARD.to_owned()), "{shelf}: {found:?}");
    }
}

#[test]
fn a_name_that_a_facade_passes_on_is_an_import_of_the_file_that_defines_it() {
    let files = [
        ("middle.rs", "pub use crate::cellar::Wine as Stairs;"),
        ("cellar/shelf.rs", "pub struct Board(crate::Brick); pub type Drink = crate::middle::Stairs;"),
        ("cellar/barrel.rs", "pub struct Wine;"),
    ];
    assert_eq!(problems(&files), [""; 0]);
}

#[test]
fn a_circle_is_shown_from_file_to_file() {
    let circle = [
        ("attic.rs", "mod box_; mod chest; mod trunk; pub fn run() { box_::lid() }"),
        ("middle.rs", "pub struct Stairs(crate::cellar::Wine);"),
        ("attic/box_.rs", "pub fn lid() { super::chest::lid() }"),
        ("attic/chest.rs", "pub fn lid() { super::trunk::lid() }"),
        ("attic/trunk.rs", "pub fn lid() { crate::attic::box_::lid() }"),
    ];
    let path = "attic/box_.rs → attic/chest.rs → attic/trunk.rs → attic/box_.rs";
    assert_eq!(problem(&circle), format!("house/src: a circle of imports: {path}"));
}

#[test]
fn a_vocabulary_in_several_files_may_refer_to_itself() {
    let both = [
        ("cellar/barrel.rs", "pub struct Wine(Option<super::shelf::Board>);"),
        ("cellar/shelf.rs", "pub struct Board(crate::Brick, Option<super::barrel::Wine>);"),
    ];
    assert_eq!(problems(&both), [""; 0]);
}

#[test]
fn a_file_may_use_what_the_parent_of_its_folder_defines() {
    let family = [
        ("attic.rs", "mod trunk; pub struct Key; pub fn run() { trunk::lid(Key) }"),
        ("attic/trunk.rs", "pub fn lid(_: super::Key) {}"),
    ];
    assert_eq!(problems(&family), [""; 0]);
}

#[test]
fn tests_may_import_what_they_like() {
    let shelf = "pub struct Board(crate::Brick); #[cfg(test)] mod tests { use crate::attic::run; }";
    assert_eq!(problems(&[("cellar/shelf.rs", shelf)]), [""; 0]);
    let shelf = "pub struct Board(crate::Brick); #[cfg(test)] mod tests; #[test] fn up() { crate::attic::run() }";
    assert_eq!(problems(&[("cellar/shelf.rs", shelf)]), [""; 0]);
}

#[test]
fn a_module_without_a_floor_and_a_floor_without_a_module_are_found() {
    let found = problems(&[
        ("lib.rs", "pub mod attic; pub mod roof; pub mod cellar; pub struct Brick;"),
        ("attic.rs", "pub fn run() {}"),
        ("roof.rs", ""),
    ]);
    assert!(found.contains(&"house/src: the module `roof` has no floor in the table".to_owned()), "{found:?}");
    assert!(found.contains(&"house/src: the table has a module `middle` that does not exist".to_owned()), "{found:?}");
}
