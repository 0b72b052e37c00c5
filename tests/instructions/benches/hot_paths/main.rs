//! Instructions of the hot paths against the committed baseline: `make bench-instructions`, or
//! `cargo bench --package instructions [-- [--accept] [ROW…]]`.
//!
//! It ends with an error and a table of before and after when a path takes over 5 % more instructions. `--accept` makes what was counted
//! the new baseline. The figures are also written to `target/bench/instructions.json`, and callgrind's profiles beside it: `callgrind_annotate`
//! shows in which functions the instructions are.

#![expect(clippy::print_stdout, reason = "the result")]
#![expect(clippy::expect_used, reason = "a path that does not behave as expected has no figure")]

#[path = "../../../../worker/core/benches/events/busy.rs"]
mod busy;
mod endpoint;
mod paths;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use instructions::{Baseline, Flat, RUN, compare, measure, version};

use crate::busy::{Busy, EVENTS};

/// One thing that is done for every job or for every event.
struct Row {
    name: &'static str,
    /// Rounds before the counted ones: what grows at first has its size then.
    warm_up: u32,
    rounds: u32,
    /// Does so many rounds.
    run: fn(u32),
}

const ROWS: [Row; 14] = [
    Row { name: "frame: Run written", warm_up: 100, rounds: 1_000, run: paths::write_frame },
    Row { name: "frame: Done with 1 kB read", warm_up: 100, rounds: 1_000, run: paths::read_frame },
    Row { name: CORE_10, warm_up: 400, rounds: 20_000, run: |rounds| core(10, rounds) },
    Row { name: CORE_1_000, warm_up: 400, rounds: 20_000, run: |rounds| core(1_000, rounds) },
    Row { name: CORE_100_000, warm_up: 400, rounds: 20_000, run: |rounds| core(100_000, rounds) },
    Row { name: "job-take: one job of 1 kB", warm_up: 100, rounds: 1_000, run: |rounds| paths::take(1, rounds) },
    Row { name: "job-take: 50 jobs of 1 kB", warm_up: 10, rounds: 100, run: |rounds| paths::take(50, rounds) },
    Row { name: "result: body of 1 kB", warm_up: 100, rounds: 1_000, run: |rounds| paths::result(1_000, rounds) },
    Row { name: "result: body of 1 MB", warm_up: 2, rounds: 10, run: |rounds| paths::result(1_000_000, rounds) },
    Row { name: "log line: text", warm_up: 100, rounds: 1_000, run: paths::text_line },
    Row { name: "log line: JSON", warm_up: 100, rounds: 1_000, run: paths::json_line },
    Row { name: "log line: masked", warm_up: 100, rounds: 1_000, run: paths::masked },
    Row { name: ENDPOINT_10, warm_up: 400, rounds: 10_000, run: |rounds| endpoint::cycles(10, rounds) },
    Row { name: ENDPOINT_100_000, warm_up: 400, rounds: 10_000, run: |rounds| endpoint::cycles(100_000, rounds) },
];

const CORE_10: &str = "core: an event, 10 jobs held";
const CORE_1_000: &str = "core: an event, 1,000 jobs held";
const CORE_100_000: &str = "core: an event, 100,000 jobs held";
const ENDPOINT_10: &str = "endpoint: a job from submit to done, 10 queued";
const ENDPOINT_100_000: &str = "endpoint: a job from submit to done, 100,000 queued";

/// What must not grow with the number of jobs.
const FLAT: [Flat; 3] = [
    Flat { row: CORE_1_000, to: CORE_10, limit: 1.2 },
    Flat { row: CORE_100_000, to: CORE_10, limit: 1.2 },
    Flat { row: ENDPOINT_100_000, to: ENDPOINT_10, limit: 1.2 },
];

/// So many events of a core that holds `held` jobs.
fn core(held: u32, events: u32) {
    Busy::new(held).run(events / EVENTS);
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, row, rounds] = arguments.as_slice()
        && flag == RUN
    {
        (find(row)?.run)(rounds.parse()?);
        return Ok(ExitCode::SUCCESS);
    }
    let (flags, names): (Vec<String>, Vec<String>) = arguments.into_iter().partition(|text| text.starts_with('-'));
    let accept = match flags.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["--accept"] => true,
        other => bail!("{other:?}: the only flag is --accept"),
    };
    let rows: Vec<&Row> = match names.as_slice() {
        [] => ROWS.iter().collect(),
        names => names.iter().map(|name| find(name)).collect::<Result<_>>()?,
    };
    hold(&rows, accept, names.is_empty())
}

fn find(name: &str) -> Result<&'static Row> {
    let known = || ROWS.map(|row| row.name).join("; ");
    ROWS.iter().find(|row| row.name == name).with_context(|| format!("there is no row {name:?}: {}", known()))
}

/// Counts the rows and compares them; returns the exit status.
fn hold(rows: &[&Row], accept: bool, whole: bool) -> Result<ExitCode> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    let program = std::env::current_exe()?;
    let mut now = Baseline { rustc: rustc()?, valgrind: version()?, instructions: BTreeMap::new() };
    for row in rows {
        let count = measure(&program, row.name, row.warm_up, row.rounds, &folder.join("callgrind"))?;
        now.instructions.insert(row.name.to_owned(), count);
    }
    now.write(&folder.join("instructions.json"))?;
    let path = Baseline::committed();
    let mut before = if accept { Baseline::read(&path).unwrap_or_default() } else { Baseline::read(&path)? };
    let verdict = compare(&before, &now.instructions, &FLAT, whole);
    println!("{}", verdict.table);
    for (tool, committed, here) in
        [("compiler", &before.rustc, &now.rustc), ("valgrind", &before.valgrind, &now.valgrind)]
    {
        if committed != here {
            println!("The baseline is of another {tool}: {committed} instead of {here}.");
        }
    }
    if accept {
        if whole {
            before = now;
        } else {
            before.instructions.extend(now.instructions);
        }
        before.write(&path)?;
        println!("This is the baseline now: {}", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    for failure in &verdict.failures {
        println!("{failure}");
    }
    if verdict.failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("If that is meant to be so: make accept-instructions, and say why in the commit.");
    Ok(ExitCode::FAILURE)
}

#[expect(clippy::disallowed_methods, reason = "asks a tool for its version")]
fn rustc() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
