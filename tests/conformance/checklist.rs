//! What RunPod's protocol asks of a worker, statement by statement, and the tests that show it. The numbers are those of the
//! compatibility checklist in the protocol's specification; what it asks of an endpoint is in `endpoint/checklist.rs`.

mod statements;

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use end_to_end_tests::repository;

use statements::{CHECKLIST, Proof};

/// The numbers of all statements about workers.
const NUMBERS: [RangeInclusive<u16>; 7] = [1..=11, 18..=37, 50..=56, 61..=76, 88..=91, 99..=106, 144..=156];

#[test]
fn every_statement_has_its_place() {
    let listed: Vec<u16> = CHECKLIST.iter().map(|(number, ..)| *number).collect();
    let all: Vec<u16> = NUMBERS.into_iter().flatten().collect();
    assert_eq!(listed, all, "each number once, in order");
}

#[test]
fn every_statement_has_a_test_that_exists_or_a_reason() {
    let mut sources = String::new();
    for folder in ["tests", "worker", "log-line/src", "handler-sdk/src"] {
        collect(&repository().join(folder), &mut sources).unwrap();
    }
    let mut missing = Vec::new();
    for (number, statement, proof) in CHECKLIST {
        let (tests, reason): (&[&str], _) = match proof {
            Proof::Tests(tests) => (tests, None),
            Proof::Partly(tests, reason) => (tests, Some(*reason)),
            Proof::Not(reason) => (&[], Some(*reason)),
        };
        assert!(!tests.is_empty() || reason.is_some(), "{number}: {statement} has no proof");
        assert!(reason.is_none_or(|reason| reason.len() > 20), "{number}: {statement} has no reason");
        for test in tests {
            if !sources.contains(&format!("fn {test}(")) {
                missing.push(format!("{number}: `{test}`"));
            }
        }
    }
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

/// The text of every source file below.
fn collect(folder: &Path, sources: &mut String) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
