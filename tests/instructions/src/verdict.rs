//! What was counted beside what was committed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::baseline::Baseline;

/// By how many per cent a row may exceed its baseline. Counts of one program differ by less than one: only the seeds of hash maps do.
pub const TOLERANCE: f64 = 5.0;

/// A row that must not cost more than another one, apart from a factor.
#[derive(Clone, Copy, Debug)]
pub struct Flat {
    /// The row.
    pub row: &'static str,
    /// The one that it is held against, of the same run.
    pub to: &'static str,
    /// The largest permitted quotient.
    pub limit: f64,
}

/// The outcome: a table, and why the bar is not passed.
#[derive(Debug)]
pub struct Verdict {
    /// Every row before and after, for people.
    pub table: String,
    /// One sentence for each row that is too slow or unknown; none if the bar is passed.
    pub failures: Vec<String>,
}

/// Compares. With `whole`, a row of the baseline that was not counted is a failure too.
#[must_use]
pub fn compare(before: &Baseline, now: &BTreeMap<String, u64>, flat: &[Flat], whole: bool) -> Verdict {
    let mut table =
        format!("{:<52} {:>12} {:>12} {:>9}\n", "instructions for one operation", "baseline", "now", "change");
    let mut failures = Vec::new();
    for (name, count) in now {
        let Some(base) = before.instructions.get(name) else {
            line(&mut table, name, "–", &grouped(*count), "new");
            failures.push(format!("{name} has no baseline"));
            continue;
        };
        let change = percent(*base, *count);
        let is_slower = *count as f64 * 100.0 > *base as f64 * (100.0 + TOLERANCE);
        let mark = if is_slower { "  ← slower" } else { "" };
        line(&mut table, name, &grouped(*base), &grouped(*count), &format!("{change:+.1} %{mark}"));
        if is_slower {
            failures.push(format!("{name} takes {change:.1} % more instructions; {TOLERANCE} % are permitted"));
        }
    }
    for name in before.instructions.keys().filter(|name| whole && !now.contains_key(*name)) {
        line(&mut table, name, "", "–", "gone");
        failures.push(format!("{name} is in the baseline and was not counted"));
    }
    for Flat { row, to, limit } in flat {
        let (Some(count), Some(base)) = (now.get(*row), now.get(*to)) else { continue };
        let quotient = *count as f64 / *base as f64;
        line(&mut table, &format!("{row} ÷ {to}"), &format!("≤ {limit:.2}"), &format!("{quotient:.2}"), "");
        if quotient > *limit {
            failures.push(format!("{row} costs {quotient:.2} times as much as {to}; {limit:.2} times are permitted"));
        }
    }
    Verdict { table, failures }
}

fn line(table: &mut String, name: &str, base: &str, now: &str, change: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(table, "{name:<52} {base:>12} {now:>12} {change:>9}");
}

fn percent(base: u64, now: u64) -> f64 {
    (now as f64 / base as f64 - 1.0) * 100.0
}

/// `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
        rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn baseline(rows: &[(&str, u64)]) -> Baseline {
        Baseline { instructions: counts(rows), ..Baseline::default() }
    }

    #[test]
    fn a_slower_path_fails_and_the_table_shows_it_before_and_after() {
        let verdict =
            compare(&baseline(&[("a", 1_000), ("b", 2_000)]), &counts(&[("a", 1_051), ("b", 2_000)]), &[], true);
        assert_eq!(verdict.failures, ["a takes 5.1 % more instructions; 5 % are permitted"]);
        let row = verdict.table.lines().nth(1).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words, ["a", "1,000", "1,051", "+5.1", "%", "←", "slower"]);
    }

    #[test]
    fn within_the_tolerance_and_faster_pass() {
        let verdict = compare(&baseline(&[("a", 1_000), ("b", 1_000)]), &counts(&[("a", 1_050), ("b", 10)]), &[], true);
        assert!(verdict.failures.is_empty(), "{verdict:?}");
        assert!(verdict.table.contains("-99.0 %"), "{}", verdict.table);
    }

    #[test]
    fn a_row_that_is_only_on_one_side_fails() {
        let before = baseline(&[("old", 1)]);
        let verdict = compare(&before, &counts(&[("new", 1)]), &[], true);
        assert_eq!(verdict.failures, ["new has no baseline", "old is in the baseline and was not counted"]);
        assert!(compare(&before, &counts(&[]), &[], false).failures.is_empty(), "rows were chosen by hand");
    }

    #[test]
    fn a_cost_that_grows_fails_even_if_it_did_before() {
        let flat = [Flat { row: "many", to: "few", limit: 1.2 }];
        let failures = |many: u64| {
            let now = [("few", 1_000), ("many", many)];
            compare(&baseline(&now), &counts(&now), &flat, true).failures
        };
        assert!(failures(1_200).is_empty());
        assert_eq!(failures(1_210), ["many costs 1.21 times as much as few; 1.20 times are permitted"]);
    }

    #[test]
    fn large_counts_are_grouped() {
        let all = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        assert!(all.iter().all(|(count, text)| grouped(*count) == *text));
    }
}
