//! The message that a webhook gets.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use crate::evaluator::{Alert, AlertState};
use crate::rule::{Severity, time};

/// Longest title, in characters.
const MAX_TITLE: usize = 200;
/// Longest message, in characters: with the title it fits into Discord's 2000.
const MAX_MESSAGE: usize = 1500;

/// The shape of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `{title, message, severity, timestamp}`.
    #[default]
    Plain,
    /// An incoming webhook of Slack, Mattermost or Rocket.Chat.
    Slack,
    /// A webhook of a Discord channel.
    Discord,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Slack, Self::Discord];

    /// The word used in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Slack => "slack",
            Self::Discord => "discord",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }
}

/// One message. Its JSON has exactly these four keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The source, the rule and whether it fires or resolves.
    pub title: String,
    /// The figures, and where the runbook is.
    pub message: String,
    /// `info`, `warning` or `critical`; always `info` when an alert resolves.
    pub severity: &'static str,
    /// UTC, such as `2026-01-31T12:00:00Z`.
    pub timestamp: String,
}

impl Message {
    /// The message about an alert of `source`, a worker or an endpoint.
    pub fn new(source: &str, alert: &Alert, now: SystemTime) -> Self {
        let Alert { rule, state, value } = alert;
        let (verb, severity) = match state {
            AlertState::Firing => ("is firing", rule.severity),
            AlertState::Resolved => ("is resolved", Severity::Info),
        };
        let value = value.map_or_else(|| "nothing to measure".to_owned(), |value| format!("{}", round(value)));
        let hold = if rule.hold.is_zero() { String::new() } else { format!(" for {}", time(rule.hold)) };
        let window = if rule.signal.has_window() { format!(" within {}", time(rule.window)) } else { String::new() };
        let message = format!(
            "{}{window}: {value}. The alert fires when it is {}{hold}. What to do: docs/operations.md#{}",
            rule.signal.describe(),
            rule.condition,
            rule.name
        );
        Self::of(&format!("{source}: {} {verb}", rule.name), &message, severity, now)
    }

    /// A test message.
    pub fn test(source: &str, now: SystemTime) -> Self {
        Self::of(&format!("{source}: test"), "This is a test. Alerts arrive.", Severity::Info, now)
    }

    fn of(title: &str, message: &str, severity: Severity, now: SystemTime) -> Self {
        Self {
            title: title.chars().take(MAX_TITLE).collect(),
            message: message.chars().take(MAX_MESSAGE).collect(),
            severity: severity.as_str(),
            timestamp: humantime::format_rfc3339_seconds(now).to_string(),
        }
    }

    /// The body in this format.
    pub fn body(&self, format: Format) -> Value {
        let Self { title, message, severity, timestamp } = self;
        match format {
            Format::Plain => json!({"title": title, "message": message, "severity": severity, "timestamp": timestamp}),
            Format::Slack => {
                let (title, message) = (escape(title), escape(message));
                json!({ "text": format!("*{title}* ({severity})\n{message}\n{timestamp}") })
            }
            // A name in the text must not notify anyone.
            Format::Discord => json!({
                "content": format!("**{title}** ({severity})\n{message}\n{timestamp}"),
                "allowed_mentions": {"parse": []},
            }),
        }
    }
}

/// Three digits after the point are enough for people.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Slack's own rule for text that is not markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rules_file::parse_rules;

    fn alert(name: &str, state: AlertState, value: Option<f64>) -> Alert {
        let rule = parse_rules("").unwrap().into_iter().find(|rule| rule.name == name).unwrap();
        Alert { rule, state, value }
    }

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800)
    }

    #[test]
    fn the_plain_body_has_exactly_four_keys() {
        let message = Message::new("local", &alert("queue_depth", AlertState::Firing, Some(130.0)), noon());
        let expected = json!({
            "title": "local: queue_depth is firing",
            "message": "jobs waiting: 130. The alert fires when it is above 100 for 1m. What to do: \
                        docs/operations.md#queue_depth",
            "severity": "warning",
            "timestamp": "2026-01-31T12:00:00Z",
        });
        assert_eq!(message.body(Format::Plain), expected);
        assert_eq!(serde_json::to_value(&message).unwrap(), expected);
    }

    #[test]
    fn a_resolved_alert_has_the_severity_info() {
        let message = Message::new("w", &alert("failure_rate", AlertState::Resolved, None), noon());
        assert_eq!((message.title.as_str(), message.severity), ("w: failure_rate is resolved", "info"));
        assert!(message.message.starts_with("share of valid jobs that failed within 5m: nothing to measure."));
    }

    #[test]
    fn slack_and_discord_get_their_own_bodies() {
        let message = Message::new("a<b>&", &alert("unhealthy", AlertState::Firing, Some(1.0)), noon());
        let slack = message.body(Format::Slack);
        assert!(slack["text"].as_str().unwrap().starts_with("*a&lt;b&gt;&amp;: unhealthy is firing* (critical)\n"));
        let discord = message.body(Format::Discord);
        assert!(discord["content"].as_str().unwrap().starts_with("**a<b>&: unhealthy is firing**"));
        assert_eq!(discord["allowed_mentions"], json!({"parse": []}));
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.as_str()), Some(format));
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        let message = Message::test(&"x".repeat(5000), noon());
        assert_eq!(message.title.len(), MAX_TITLE);
    }
}
