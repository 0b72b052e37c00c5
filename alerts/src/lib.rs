//! Alerts for people without a monitoring stack: rules over what `/health` and `/metrics` show anyway, an evaluation that is
//! a pure function of readings and time, and a webhook that is told what starts and what ends.
//!
//! `runpod-worker` and `runpod-endpoint` both watch themselves with it. It knows nothing of RunPod's protocol.

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
