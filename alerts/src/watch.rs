//! Watches one source of readings: alerts are logged, and sent if there is a webhook.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::evaluator::{AlertState, Evaluator};
use crate::message::Message;
use crate::rule::{Rule, Severity};
use crate::sender::Sender;
use crate::signal::Readings;

/// Interval between two readings.
pub const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);

/// The alerts of one worker or endpoint.
#[derive(Debug)]
pub struct Watch {
    source: String,
    evaluator: Evaluator,
    sender: Option<Arc<Sender>>,
    started: Instant,
}

impl Watch {
    /// Watches `source`; its name is part of every message.
    pub fn new(source: &str, rules: Vec<Rule>, sender: Option<Arc<Sender>>) -> Self {
        Self { source: source.to_owned(), evaluator: Evaluator::new(rules), sender, started: Instant::now() }
    }

    /// Evaluates the readings. Does not wait.
    pub fn observe(&mut self, readings: &Readings) {
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
            if let Some(sender) = &self.sender {
                sender.send(message);
            }
        }
    }
}
