//! Rules from TOML: the defaults, and a file that changes some of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use crate::rule::{Condition, Rule, Severity};
use crate::signal::Signal;

const DEFAULTS: &str = include_str!("defaults.toml");

/// Most rules that are evaluated.
const MAX_RULES: usize = 64;

/// Longest rule name.
const MAX_NAME: usize = 64;

/// Longest window: every reading within it is kept.
const MAX_WINDOW: Duration = Duration::from_secs(3600);

/// Longest `for` and `cool_down`.
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

const DEFAULT_WINDOW: Duration = Duration::from_secs(300);

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The file cannot be read.
    #[error("cannot read the alert rules {}: {error}; check the path", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// It is not TOML.
    #[error("the alert rules are not TOML: {}", .0.to_string().trim_end().replace('\n', " "))]
    Syntax(#[source] Box<toml::de::Error>),
    /// Every mistake in single rules.
    #[error("the alert rules cannot be used: {}", .0.join("; "))]
    Rules(Vec<String>),
}

/// The defaults, as changed by the file.
///
/// # Errors
/// When the file cannot be used; every mistake is named.
pub fn load_rules(path: Option<&Path>) -> Result<Vec<Rule>, RulesError> {
    let Some(path) = path else { return parse_rules("") };
    let text =
        std::fs::read_to_string(path).map_err(|error| RulesError::Unreadable { path: path.to_owned(), error })?;
    parse_rules(&text)
}

/// The defaults, as changed by `text`.
///
/// # Errors
/// When it cannot be used; every mistake is named.
pub fn parse_rules(text: &str) -> Result<Vec<Rule>, RulesError> {
    let syntax = |error| RulesError::Syntax(Box::new(error));
    let mut merged: Table = DEFAULTS.parse().map_err(syntax)?;
    let mut problems = Vec::new();
    for (name, change) in text.parse::<Table>().map_err(syntax)? {
        match change {
            Value::Table(change) if name_fits(&name) => merge(&mut merged, name, change),
            Value::Table(_) => problems.push(format!(
                "the rule name {:?} does not fit: use up to {MAX_NAME} lower-case letters, digits, _ and -",
                name.chars().take(MAX_NAME).collect::<String>()
            )),
            _ => problems.push(format!("{name:?} is not a rule: write a table such as [queue_depth]")),
        }
    }
    if merged.len() > MAX_RULES {
        problems.push(format!("there are {} rules: keep at most {MAX_RULES}", merged.len()));
    }
    let mut rules = Vec::new();
    for (name, table) in merged {
        match rule(&name, table) {
            Ok(rule) => rules.extend(rule),
            Err(problem) => problems.push(format!("[{name}] {problem}")),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(RulesError::Rules(problems)) }
}

fn name_fits(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}

/// Values of the file replace those of the default rule; `above` and `below` replace each other.
fn merge(rules: &mut Table, name: String, change: Table) {
    let Some(Value::Table(rule)) = rules.get_mut(&name) else {
        rules.insert(name, Value::Table(change));
        return;
    };
    if change.contains_key("above") || change.contains_key("below") {
        rule.remove("above");
        rule.remove("below");
    }
    rule.extend(change);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    signal: Signal,
    above: Option<f64>,
    below: Option<f64>,
    #[serde(default, deserialize_with = "time")]
    window: Option<Duration>,
    min_jobs: Option<u64>,
    #[serde(default, rename = "for", deserialize_with = "time")]
    hold: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    cool_down: Option<Duration>,
    severity: Severity,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    humantime::parse_duration(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

/// `None` for a rule that is switched off.
fn rule(name: &str, table: Value) -> Result<Option<Rule>, String> {
    let text: RuleText = table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    if !text.enabled {
        return Ok(None);
    }
    let condition = match (text.above, text.below) {
        (Some(limit), None) if limit.is_finite() => Condition::Above(limit),
        (None, Some(limit)) if limit.is_finite() => Condition::Below(limit),
        _ => return Err("give either `above` or `below`, a number".to_owned()),
    };
    if !text.signal.has_window() && (text.window.is_some() || text.min_jobs.is_some()) {
        return Err(format!("`{}` has no `window` and no `min_jobs`: leave them out", text.signal.as_str()));
    }
    let window = text.window.unwrap_or(DEFAULT_WINDOW);
    if window.is_zero() || window > MAX_WINDOW {
        return Err("`window` must be over 0s and at most 1h".to_owned());
    }
    let (hold, cool_down) = (text.hold.unwrap_or_default(), text.cool_down.unwrap_or_default());
    if hold > MAX_TIME || cool_down > MAX_TIME {
        return Err("`for` and `cool_down` must be at most 7d".to_owned());
    }
    let min_jobs = text.min_jobs.unwrap_or_default();
    let (name, signal, severity) = (name.to_owned(), text.signal, text.severity);
    Ok(Some(Rule { name, signal, condition, window, min_jobs, hold, cool_down, severity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(rules: &[Rule], name: &str) -> Option<Rule> {
        rules.iter().find(|rule| rule.name == name).cloned()
    }

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let rules = load_rules(None).unwrap();
        let mut names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "data_unavailable",
                "failure_rate",
                "gpu_underused",
                "no_idle_worker",
                "queue_depth",
                "timeout_spike",
                "unhealthy",
                "worker_lost"
            ]
        );
        let depth = named(&rules, "queue_depth").unwrap();
        assert_eq!((depth.condition, depth.hold), (Condition::Above(100.0), Duration::from_secs(60)));
        assert_eq!(named(&rules, "failure_rate").unwrap().condition, Condition::Above(0.1));
        assert_eq!(named(&rules, "unhealthy").unwrap().hold, Duration::ZERO);
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let rules = parse_rules("[mine]\nsignal = \"gpu_utilization\"\nbelow = 0.05\nseverity = \"info\"").unwrap();
        let text: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        assert_eq!(parse_rules(&text).unwrap(), rules);
    }

    #[test]
    fn a_file_changes_adds_and_switches_off() {
        let text = "[queue_depth]\nabove = 5\n[unhealthy]\nenabled = false\n[gpu_underused]\nabove = 0.9\n\
                    [deep]\nsignal = \"queue_depth\"\nabove = 1000\nseverity = \"critical\"";
        let rules = parse_rules(text).unwrap();
        let depth = named(&rules, "queue_depth").unwrap();
        assert_eq!((depth.condition, depth.cool_down), (Condition::Above(5.0), Duration::from_secs(900)));
        assert_eq!(named(&rules, "unhealthy"), None);
        assert_eq!(named(&rules, "gpu_underused").unwrap().condition, Condition::Above(0.9));
        assert_eq!(named(&rules, "deep").unwrap().severity, Severity::Critical);
        assert_eq!(rules.len(), 8);
    }

    #[test]
    fn the_file_of_the_guide_is_one() {
        let guide = include_str!("../../docs/operations.md");
        let file = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let rules = parse_rules(file).unwrap();
        assert_eq!(named(&rules, "queue_depth").unwrap().condition, Condition::Above(500.0));
        assert_eq!(named(&rules, "gpu_underused"), None);
        assert!(named(&rules, "very_deep").is_some());
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let text = "nonsense = 1\n[Bad]\nabove = 1\n[queue_depth]\nabov = 5\n[failure_rate]\nwindow = \"2h\"\n\
                    [unhealthy]\nwindow = \"1m\"\n[new]\nsignal = \"cpu\"\nabove = 1\nseverity = \"info\"\n\
                    [timeout_spike]\nabove = 1\nbelow = 2\n[gpu_underused]\nfor = \"soon\"";
        let error = parse_rules(text).unwrap_err().to_string();
        for part in [
            "\"nonsense\" is not a rule",
            "\"Bad\" does not fit",
            "[queue_depth] unknown field `abov`",
            "[failure_rate] `window` must be over 0s",
            "[unhealthy] `unhealthy_workers` has no `window`",
            "[new] unknown variant `cpu`",
            "[timeout_spike] give either",
            "[gpu_underused] expected number",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = load_rules(Some(Path::new("/nowhere/rules.toml"))).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/rules.toml") && missing.contains("check the path"), "{missing}");
        let syntax = parse_rules("[queue_depth\n").unwrap_err().to_string();
        assert!(syntax.contains("not TOML") && !syntax.contains('\n'), "{syntax}");
    }
}
