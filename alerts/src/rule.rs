//! One alert rule.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::signal::Signal;

/// How severe an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Severity {
    /// The word used in rules and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// When a value triggers an alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// When it is greater than this.
    Above(f64),
    /// When it is less than this.
    Below(f64),
}

impl Condition {
    /// Whether `value` triggers an alert.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Above(limit) => value > limit,
            Self::Below(limit) => value < limit,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above(limit) => write!(f, "above {limit}"),
            Self::Below(limit) => write!(f, "below {limit}"),
        }
    }
}

/// One rule. Its text form, which `Display` writes, is a table of a rules file.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, also the name of its section in the runbook.
    pub name: String,
    /// The value that it watches.
    pub signal: Signal,
    /// When the value triggers an alert.
    pub condition: Condition,
    /// The period that a signal with a window covers.
    pub window: Duration,
    /// Fewer ended jobs than this within the window give no rate.
    pub min_jobs: u64,
    /// How long the condition must hold before the alert fires: `for` in the file.
    pub hold: Duration,
    /// Shortest time between two firing messages.
    pub cool_down: Duration,
    /// How severe it is.
    pub severity: Severity,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, limit) = match self.condition {
            Condition::Above(limit) => ("above", limit),
            Condition::Below(limit) => ("below", limit),
        };
        writeln!(f, "[{}]\nsignal = \"{}\"\n{word} = {limit}", self.name, self.signal.as_str())?;
        if self.signal.has_window() {
            writeln!(f, "window = \"{}\"\nmin_jobs = {}", time(self.window), self.min_jobs)?;
        }
        writeln!(f, "for = \"{}\"\ncool_down = \"{}\"", time(self.hold), time(self.cool_down))?;
        writeln!(f, "severity = \"{}\"", self.severity.as_str())
    }
}

pub(crate) fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
