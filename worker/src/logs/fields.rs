//! What an event or a span carries.

use std::fmt;

use serde_json::Value;
use tracing::field::{Field, Visit};

use super::shorten::shorten;
use super::{job_tags, redact};

/// What an event or a span carries, already free of secrets.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// The field `job`.
    pub(super) job: Option<String>,
    pub(super) message: String,
    /// All other fields, in the order in which they came.
    pub(super) others: Vec<(&'static str, Value)>,
}

impl Fields {
    /// A message without fields.
    pub(super) fn of_message(message: String) -> Self {
        Self { message, ..Self::default() }
    }

    /// Takes over what an outer span carries.
    pub(super) fn inherit(&mut self, outer: &Self) {
        if outer.job.is_some() {
            self.job.clone_from(&outer.job);
        }
        for (name, value) in &outer.others {
            self.set(name, value.clone());
        }
    }

    fn set(&mut self, name: &'static str, value: Value) {
        match self.others.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.others.push((name, value)),
        }
    }

    fn set_text(&mut self, name: &'static str, text: &str) {
        // Cleaned before it is cut: half a secret would not be recognized.
        let text = shorten(&redact::clean(text)).into_owned();
        match name {
            "job" => self.job = Some(text),
            "message" => self.message = text,
            _ => self.set(name, Value::String(text)),
        }
    }

    /// Adds what is known of the job.
    pub(super) fn tag(&mut self) {
        let Some(tags) = self.job.as_deref().and_then(job_tags::tags) else { return };
        if let Some(batch) = tags.batch {
            self.message = shorten(&format!("[batchId={batch}] {}", self.message)).into_owned();
        }
        if let Some(trace_id) = tags.trace_id {
            self.set("trace_id", Value::String(trace_id));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field.name(), &format!("{value:?}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }
}
