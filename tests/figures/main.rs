//! The figures of the documents belong together: the committed output of the benchmark, the chart that is made from it, and the table.
//!
//! `make figures` takes over the output of the last `make bench` and draws the chart anew: this test does so with `FIGURES=write`.

#![cfg(test)]

mod chart;

use std::path::PathBuf;

use end_to_end_tests::repository;
use serde_json::{Value, json};

const FIGURES: &str = "docs/figures/runtime.json";
const CHART: &str = "docs/images/performance.svg";

fn path(name: &str) -> PathBuf {
    repository().join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn figures() -> Value {
    serde_json::from_str(&read(FIGURES)).unwrap()
}

#[test]
fn the_chart_is_that_of_the_committed_figures() {
    let chart = chart::chart(&figures());
    if std::env::var("FIGURES").as_deref() == Ok("write") {
        std::fs::write(path(CHART), &chart).unwrap();
    }
    assert!(read(CHART) == chart, "{CHART} is not the chart of {FIGURES}: make figures");
    assert!(read("README.md").contains(CHART), "the README does not show {CHART}");
}

/// The numbers in the cells of the table's row with this name.
fn cells(table: &str, name: &str) -> Vec<f64> {
    let row = table.lines().find(|line| line.trim_start_matches(['|', ' ']).starts_with(name));
    let row = row.unwrap_or_else(|| panic!("docs/performance.md has no row {name}"));
    row.split('|').filter_map(|cell| cell.trim().replace(',', "").parse().ok()).collect()
}

#[test]
fn the_table_has_the_committed_figures() {
    let table = read("docs/performance.md");
    for row in figures()["rows"].as_array().unwrap() {
        let name = format!("{} ({})", row["what"].as_str().unwrap(), row["unit"].as_str().unwrap());
        let shown = cells(&table, &name);
        for program in ["worker", "bare_loop", "official"] {
            let Some(median) = row[program]["median"].as_f64() else { continue };
            // The table rounds.
            let is_it = |cell: &f64| (cell - median).abs() <= (median.abs() * 0.01).max(0.0051);
            assert!(shown.iter().any(is_it), "{name}: {program} has {median} in {FIGURES}, the table {shown:?}");
        }
    }
}

#[test]
fn what_is_slower_stands_further_right_whether_it_is_a_rate_or_a_time() {
    let row = |what: &str, unit: &str, medians: [f64; 3]| {
        let [worker, bare, official] = medians.map(|median| json!({"median": median}));
        json!({"what": what, "unit": unit, "worker": worker, "bare_loop": bare, "official": official})
    };
    let mut figures = figures();
    let rows = figures["rows"].as_array_mut().unwrap();
    let place = |rows: &[Value], what: &str| rows.iter().position(|row| row["what"] == what).unwrap();
    let (rate, time) = (place(rows, "no-op, 1 slot"), place(rows, "1 MB in and out, one at a time"));
    rows[rate] = row("no-op, 1 slot", "jobs/s", [100.0, 1_000.0, 10.0]);
    rows[time] = row("1 MB in and out, one at a time", "ms", [20.0, 2.0, 200.0]);
    let chart = chart::chart(&figures);
    // Ten times and a hundred times the bare loop, for both.
    let (ours, theirs) = (r#"<circle class="ours" cx="390.0""#, r#"<rect class="theirs" x="485.0""#);
    for value in ["100 jobs/s", "20.0 ms"] {
        let line = chart.lines().find(|line| line.contains(&format!(">{value}<"))).unwrap();
        assert!(line.contains(ours) && line.contains(theirs), "{line}");
    }
}
