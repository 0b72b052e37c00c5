//! Parses what workers post: results, progress updates and stream items.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::json;
use super::limits;
use crate::store::{Ending, Outcome, Payload};

/// `error_type` of a job that its worker stopped at the execution timeout.
const TIMEOUT: &str = "timeout";

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
            Ok(text) => json::object(json::without_non_finite(text).as_bytes()),
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
        let timed_out = error.as_deref().is_some_and(is_timeout);
        let cost = body.cost.filter(|cost| cost.get().len() <= limits::COST).map(Arc::from);
        let ending = Ending { output, error: error.map(shortened), cost };
        Ok(Self::Final(Outcome { ending, timed_out, recycle: json::is_truthy(&body.stop_pod) }))
    }
}

/// Reads a job-stream body: the item, `null` when there is none.
pub(crate) fn parse_stream_item(body: &[u8]) -> Result<Payload, serde_json::Error> {
    let output = ResultBody::parse(body)?.output;
    Ok(Arc::from(output.unwrap_or_else(|| RawValue::NULL.to_owned())))
}

/// Whether a worker's error means that the job exceeded its execution timeout. Python's `<class 'TimeoutError'>` is a different
/// type. A handler can use the type `timeout` itself; the store compares the run time with the timeout for that case.
fn is_timeout(error: &str) -> bool {
    #[derive(Deserialize)]
    struct ErrorObject<'a> {
        #[serde(borrow)]
        error_type: std::borrow::Cow<'a, str>,
    }
    error.starts_with('{') && serde_json::from_str::<ErrorObject<'_>>(error).is_ok_and(|it| it.error_type == TIMEOUT)
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
