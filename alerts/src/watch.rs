//! Watches one source of readings: alerts are logged, and returned as messages.

use std::time::{Duration, Instant, SystemTime};

use crate::evaluator::{AlertState, Evaluator};
use crate::message::Message;
use crate::rule::{Rule, Severity};
use crate::signal::Readings;

/// Interval between two readings.
pub const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);

/// The alerts of one worker or endpoint.
#[derive(Debug)]
pub struct Watch {
    source: String,
    evaluator: Evaluator,
    started: Instant,
}

impl Watch {
    /// Watches `source`; its name is part of every message.
    pub fn new(source: &str, rules: Vec<Rule>) -> Self {
        Self { source: source.to_owned(), evaluator: Evaluator::new(rules), started: Instant::now() }
    }

    /// Evaluates the readings; returns what is to be sent. Does not wait.
    #[must_use = "messages are not sent by themselves"]
    pub fn observe(&mut self, readings: &Readings) -> Vec<Message> {
        let mut messages = Vec::new();
        for alert in self.evaluator.observe(self.started.elapsed(), readings) {
            let message = Message::new(&self.source, &alert, SystemTime::now());
            let (source, rule, severity) = (&self.source, &alert.rule.name, alert.rule.severity.as_str());
            match alert.state {
                AlertState::Firing if alert.rule.severity == Severity::Info => {
                    tracing::info!(source, rule, severity, "{}", message.message);
                }
                AlertState::Firing => tracing::warn!(source, rule, severity, "{}", message.message),
                AlertState::Resolved => tracing::info!(source, rule, severity, "Resolved: {}", message.message),
            }
            messages.push(message);
        }
        messages
    }
}
