//! Parses what workers post: results, progress updates and stream items.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json;
use super::limits;
use crate::store::{CallerMistake, Ending, NotBegun, Outcome, Payload};

/// `error_type` of a job that its worker stopped at the execution timeout.
pub(crate) const TIMEOUT: &str = "timeout";
/// `error_type` of a job with an input that is not valid.
pub(crate) const VALIDATION: &str = "validation";
/// `error_type` of a job for a model that the handler does not have.
pub(crate) const MODEL_NOT_FOUND: &str = "model_not_found";
/// `event` of a job that a worker of RunPod's SDK 2.0 held when it was told to stop before its hooks had ended.
const PRESTART_CANCELLED: &str = "prestart_cancelled";
/// `event` of a job that such a worker held when its hooks failed.
const PRESTART_FAILED: &str = "prestart_failed";

/// The meaning of a job-done body.
#[derive(Debug)]
pub(crate) enum Report {
    Progress(Option<Payload>),
    Final(Outcome),
}

/// job-done and job-stream body.
#[derive(Debug, Deserialize)]
struct ResultBody {
    #[serde(default, deserialize_with = "json::present")]
    output: Option<Box<RawValue>>,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    cost: Option<Box<RawValue>>,
    #[serde(default)]
    status: Value,
    #[serde(default, rename = "stopPod")]
    stop_pod: Value,
}

impl ResultBody {
    fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        json::object(body).or_else(|error| match std::str::from_utf8(body) {
            Ok(text) => json::object(json::strict(text).as_bytes()),
            Err(_) => Err(error),
        })
    }
}

impl Report {
    /// Reads a job-done body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let body = ResultBody::parse(body)?;
        let output = body.output.map(Arc::from);
        if body.status == "IN_PROGRESS" {
            return Ok(Self::Progress(output));
        }
        let error = json::is_truthy(&body.error).then(|| match body.error {
            Value::String(text) => text,
            other => other.to_string(),
        });
        let known = error.as_deref().map(KnownError::of).unwrap_or_default();
        let (timed_out, mistake, not_begun) = (known.error_type == TIMEOUT, known.mistake(), known.not_begun());
        let cost = body.cost.filter(|cost| cost.get().len() <= limits::COST).map(Arc::from);
        let ending = Ending { output, error: error.map(shortened), cost };
        Ok(Self::Final(Outcome { ending, timed_out, mistake, refresh: json::is_truthy(&body.stop_pod), not_begun }))
    }
}

/// Reads a job-stream body: the item, `null` when there is none.
pub(crate) fn parse_stream_item(body: &[u8]) -> Result<Payload, serde_json::Error> {
    let output = ResultBody::parse(body)?.output;
    Ok(Arc::from(output.unwrap_or_else(|| RawValue::NULL.to_owned())))
}

/// What an error says in fields, where it is a JSON object in a text.
#[derive(Deserialize, Default)]
pub(crate) struct KnownError {
    /// Python's `<class 'TimeoutError'>` is not [`TIMEOUT`]. A handler can use that type itself; the store compares the run time with
    /// the timeout for that case.
    #[serde(default, deserialize_with = "text_or_none")]
    pub(crate) error_type: String,
    #[serde(default)]
    error_message: Value,
    #[serde(default, deserialize_with = "text_or_none")]
    event: String,
}

/// A text; empty for every other value, so that the other fields are still read.
fn text_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        _ => String::new(),
    })
}

impl KnownError {
    pub(crate) fn of(error: &str) -> Self {
        error.starts_with('{').then(|| json::read(error).ok()).flatten().unwrap_or_default()
    }

    /// What a person needs of this error: no traceback, no names of hosts.
    pub(crate) fn message<'b>(&'b self, error: &'b str) -> &'b str {
        self.error_message.as_str().unwrap_or(error)
    }

    fn mistake(&self) -> Option<CallerMistake> {
        match &*self.error_type {
            VALIDATION => Some(CallerMistake::Validation),
            MODEL_NOT_FOUND => Some(CallerMistake::ModelNotFound),
            _ => None,
        }
    }

    fn not_begun(&self) -> Option<NotBegun> {
        match &*self.event {
            PRESTART_CANCELLED => Some(NotBegun::Stopped),
            PRESTART_FAILED => Some(NotBegun::StartFailed),
            _ => None,
        }
    }
}

fn shortened(mut error: String) -> String {
    if error.len() > limits::ERROR {
        let bytes = error.len();
        error.truncate(error.floor_char_boundary(limits::ERROR));
        error.push_str(&format!(" … (cut here: the error has {bytes} bytes)"));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(body: &str) -> Outcome {
        match Report::parse(body.as_bytes()).unwrap() {
            Report::Final(outcome) => outcome,
            Report::Progress(_) => panic!("{body} is a result"),
        }
    }

    #[test]
    fn a_timeout_is_known_by_its_error_type() {
        for (error, timed_out) in [
            (r#""{\"error_type\":\"timeout\",\"error_message\":\"m\"}""#, true),
            (r#"{"error_type": "timeout"}"#, true),
            (r#""{\"error_type\":\"<class 'TimeoutError'>\"}""#, false),
            (r#""{\"error_type\":\"crashed\",\"error_message\":\"timeout\"}""#, false),
            (r#""timeout""#, false),
            ("7", false),
        ] {
            assert_eq!(outcome(&format!(r#"{{"error": {error}}}"#)).timed_out, timed_out, "{error}");
        }
    }

    #[test]
    fn a_mistake_of_the_caller_is_known_by_its_error_type() {
        for (error, mistake) in [
            (r#""{\"error_type\":\"validation\",\"error_message\":\"m\"}""#, Some(CallerMistake::Validation)),
            (r#"{"error_type": "model_not_found"}"#, Some(CallerMistake::ModelNotFound)),
            (r#""{\"error_type\":\"inference_error\",\"error_message\":\"validation\"}""#, None),
            (r#""validation""#, None),
        ] {
            assert_eq!(outcome(&format!(r#"{{"error": {error}}}"#)).mistake, mistake, "{error}");
        }
    }

    #[test]
    fn a_job_that_was_not_begun_is_known_by_the_event_in_its_error() {
        for (error, not_begun) in [
            (r#""{\"event\":\"prestart_cancelled\",\"error_type\":\"PrestartCancelled\"}""#, Some(NotBegun::Stopped)),
            (r#""{\"event\":\"prestart_failed\",\"error_type\":\"ValueError\"}""#, Some(NotBegun::StartFailed)),
            (r#""{\"event\":\"other\"}""#, None),
            (r#""prestart_failed""#, None),
        ] {
            assert_eq!(outcome(&format!(r#"{{"error": {error}}}"#)).not_begun, not_begun, "{error}");
        }
    }

    #[test]
    fn an_error_that_is_not_unicode_is_kept_with_its_type() {
        let plain = outcome(r#"{"error": "no file caf\udce9"}"#);
        assert_eq!(plain.ending.error.as_deref(), Some("no file caf\u{fffd}"));
        for error in [
            r#"{"error_type": "validation", "error_message": "caf\udce9"}"#,
            r#""{\"error_type\": \"validation\", \"error_message\": \"caf\\udce9\"}""#,
            r#""{\"error_type\": \"validation\", \"error_message\": \"caf\udce9\", \"event\": null}""#,
        ] {
            let outcome = outcome(&format!(r#"{{"error": {error}}}"#));
            assert_eq!(outcome.mistake, Some(CallerMistake::Validation), "{error}");
            let text = outcome.ending.error.unwrap();
            assert_eq!(KnownError::of(&text).message(&text), "caf\u{fffd}");
        }
        let item = parse_stream_item(br#"{"output": "caf\udce9"}"#).unwrap();
        assert_eq!(item.get(), r#""caf\udce9""#, "an output is passed on as it is");
    }

    #[test]
    fn a_long_error_is_cut_and_says_so() {
        let error = outcome(&format!(r#"{{"error": "{}"}}"#, "ä".repeat(limits::ERROR))).ending.error.unwrap();
        assert!(error.len() < limits::ERROR + 100 && error.ends_with("ä … (cut here: the error has 2097152 bytes)"));
        assert_eq!(
            outcome(&format!(r#"{{"error": "{}"}}"#, "x".repeat(limits::ERROR))).ending.error.unwrap().len(),
            limits::ERROR
        );
    }

    #[test]
    fn a_cost_is_kept_as_it_was_sent_unless_it_is_something_else() {
        let cost = |cost: &str| outcome(&format!(r#"{{"output": 1, "cost": {cost}}}"#)).ending.cost;
        assert_eq!(cost(r#"{"gpuSeconds": 1.50}"#).unwrap().get(), r#"{"gpuSeconds": 1.50}"#);
        assert!(cost("null").is_none());
        assert!(cost(&format!(r#""{}""#, "x".repeat(limits::COST))).is_none());
    }
}
