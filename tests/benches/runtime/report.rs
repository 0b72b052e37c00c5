//! The figures as a table and as JSON.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use end_to_end_tests::repository;
use serde_json::{Value, json};

use crate::samples::Samples;
use crate::subject::OFFICIAL;

/// One row: the same measurement of up to three programs.
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    worker: Samples,
    bare: Samples,
    official: Samples,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// The most that the thread of the queue was busy, by the row in which it was.
    queue_busy: f64,
}

impl Report {
    /// Adds a row. Programs that were not measured have no samples.
    pub(crate) fn row(&mut self, what: &str, unit: &'static str, worker: Samples, bare: Samples, official: Samples) {
        let row = Row { what: what.to_owned(), unit, worker, bare, official };
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// Takes note of how busy the queue was, as a share of one core.
    pub(crate) fn queue_was_busy(&mut self, share: f64) {
        self.queue_busy = self.queue_busy.max(share);
    }

    /// The head of the table; each row is printed when it is known.
    pub(crate) fn print_head() {
        println!(
            "{:<46} {:>9} {:>17} {:>9} {:>9} {:>8} {:>8}",
            "medians; in brackets the spread", "worker", "", "bare loop", "official", "÷ bare", "÷ offic."
        );
    }

    /// Writes the figures to `target/bench/runtime.json`; returns the path.
    pub(crate) fn write(&self, mode: &str) -> Result<PathBuf> {
        let rows: Vec<Value> = self.rows.iter().map(document).collect();
        let document = json!({
            "mode": mode,
            "date": output("date", &["--utc", "+%F"]),
            "machine": machine(),
            "versions": {
                "worker": env!("CARGO_PKG_VERSION"),
                "commit": output("git", &["rev-parse", "--short", "HEAD"]),
                "rustc": output("rustc", &["--version"]),
                "official": OFFICIAL,
                "python": output("python3", &["--version"]),
            },
            "queue_busy": self.queue_busy,
            "rows": rows,
        });
        let folder = repository().join("target/bench");
        fs::create_dir_all(&folder)?;
        let path = folder.join("runtime.json");
        fs::write(&path, serde_json::to_string_pretty(&document)? + "\n")?;
        Ok(path)
    }

    /// How busy the queue was at most.
    pub(crate) fn print_foot(&self) {
        println!("\nThe queue's thread was busy for at most {:.0} % of the time.", self.queue_busy * 100.0);
    }
}

fn line(row: &Row) -> String {
    let figure = |samples: &Samples| samples.median().map_or_else(|| "–".to_owned(), number);
    let spread =
        row.worker.spread().map_or_else(String::new, |(low, high)| format!("[{}, {}]", number(low), number(high)));
    let ratio =
        |other: &Samples| ratio(&row.worker, other).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
    format!(
        "{:<46} {:>9} {spread:>17} {:>9} {:>9} {:>8} {:>8}",
        format!("{} ({})", row.what, row.unit),
        figure(&row.worker),
        figure(&row.bare),
        figure(&row.official),
        ratio(&row.bare),
        ratio(&row.official),
    )
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn ratio(worker: &Samples, other: &Samples) -> Option<f64> {
    let (worker, other) = (worker.median()?, other.median()?);
    (other != 0.0).then_some(worker / other)
}

fn document(row: &Row) -> Value {
    let samples = |samples: &Samples| {
        let (low, high) = samples.spread()?;
        // One sample for each job would be thousands.
        let all = Some(samples.all()).filter(|all| all.len() <= 20);
        Some(json!({"median": samples.median(), "min": low, "max": high, "count": samples.all().len(), "samples": all}))
    };
    json!({
        "what": row.what,
        "unit": row.unit,
        "worker": samples(&row.worker),
        "bare_loop": samples(&row.bare),
        "official": samples(&row.official),
        "to_bare_loop": ratio(&row.worker, &row.bare),
        "to_official": ratio(&row.worker, &row.official),
    })
}

fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim_end(),
        "load_at_the_end": load.split_whitespace().next(),
    })
}

/// The first line that a program prints, if there is such a program.
#[expect(clippy::disallowed_methods, reason = "asks tools for their versions")]
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).current_dir(repository()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}
