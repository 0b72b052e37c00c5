//! Alerts without a monitoring stack: rules over the values that `/health` and `/metrics` show, an evaluator that is a pure function
//! of readings and time, and a webhook that gets one message when an alert fires and one when it resolves.
//!
//! `runpod-worker` and `runpod-endpoint` both use it. It has no type of RunPod's protocol.

mod evaluator;
mod message;
mod request_error;
mod rule;
mod rules_file;
mod sender;
mod signal;
mod watch;
mod webhook;

pub use evaluator::{Alert, AlertState, Evaluator};
pub use message::{Format, Message};
pub use request_error::request_error_text;
pub use rule::{Condition, Rule, Severity};
pub use rules_file::{RulesError, load_rules, parse_rules};
pub use sender::Sender;
pub use signal::{Counters, Readings, Signal};
pub use watch::{EVALUATION_INTERVAL, Watch};
pub use webhook::{BadUrl, SendError, Webhook, WebhookUrl};
