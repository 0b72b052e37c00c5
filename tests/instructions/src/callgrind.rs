//! Counts instructions with valgrind's callgrind, which simulates the processor: nothing else on the machine changes the count.
//!
//! A row is counted in two processes, one of which does more rounds. Their difference is what the rounds cost: the start of the
//! program and what the row prepares are in both. So neither marks in the measured code nor a harness inside it are needed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// The argument with which the program of the rows is told to do rounds of one row: `RUN ROW ROUNDS`.
pub const RUN: &str = "--run";

/// Instructions for one round of a row. `program` does them when it is told to; `warm_up` rounds are not counted. The profiles are left
/// in `folder`, for `callgrind_annotate`.
///
/// # Errors
/// When valgrind is missing, or the program fails.
pub fn measure(program: &Path, row: &str, warm_up: u32, rounds: u32, folder: &Path) -> Result<u64> {
    let name: String = row.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let (less, more) = thread::scope(|scope| {
        let less = scope.spawn(|| count(program, row, warm_up, &folder.join(format!("{name}.warm-up"))));
        let more = count(program, row, warm_up + rounds, &folder.join(format!("{name}.callgrind")));
        (less.join(), more)
    });
    let less = less.map_err(|_| anyhow!("counting {row} panicked"))??;
    let cost = more?.checked_sub(less).with_context(|| format!("{row}: more rounds took fewer instructions"))?;
    ensure!(rounds > 0, "{row} has no rounds");
    Ok(cost / u64::from(rounds))
}

/// `valgrind --version`.
///
/// # Errors
/// When valgrind is missing.
pub fn version() -> Result<String> {
    let output = valgrind().arg("--version").output().context("valgrind is needed: apt-get install -y valgrind")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn count(program: &Path, row: &str, rounds: u32, out: &Path) -> Result<u64> {
    let output = valgrind()
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([RUN, row, &rounds.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("valgrind is needed: apt-get install -y valgrind")?;
    if !output.status.success() {
        bail!("{row}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let text = fs::read_to_string(out).with_context(|| out.display().to_string())?;
    total(&text).with_context(|| format!("{} has no total", out.display()))
}

/// The sum at the end of callgrind's file.
fn total(text: &str) -> Option<u64> {
    text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a tool of this repository that starts a tool")]
fn valgrind() -> Command {
    Command::new("valgrind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_total_at_the_end_of_the_file() {
        let text =
            "# callgrind format\nversion: 1\nevents: Ir\nsummary: 7\n\nfn=(1) totals: 3\n12 4\n\ntotals: 123456789\n";
        assert_eq!(total(text), Some(123_456_789));
        assert_eq!(total("events: Ir\n"), None);
    }
}
