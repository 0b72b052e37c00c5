//! Turns what the user typed into a `/run` request.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::args::SubmitArgs;
use crate::api::{check_field, limits};

/// Larger than any request that is accepted.
const MAX_INPUT: u64 = 64 << 20;

/// Why the input cannot be submitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// No input at all.
    #[error("nothing to submit: give the input as JSON ('{{\"prompt\": \"hi\"}}') or name a file with --input")]
    Missing,
    /// The file cannot be read.
    #[error("cannot read the input from {0}: {1}; name a JSON file, or `-` for standard input")]
    Unreadable(String, #[source] std::io::Error),
    /// Text in another encoding.
    #[error("the input from {0} is not UTF-8 text; save it as UTF-8 (in PowerShell: -Encoding utf8)")]
    Encoding(String),
    /// The job would be removed before its time is over.
    #[error("--policy-execution-timeout must be less than --policy-ttl, after which the job is removed")]
    Policy,
    /// A file without inputs.
    #[error("{0} has no inputs: give one JSON value a line")]
    NoLines(String),
    /// A line that is not JSON.
    #[error("line {0} is not JSON: {reason}; each line is the input of one job", reason = in_line(.1))]
    Line(usize, #[source] serde_json::Error),
    /// A line that no request can hold.
    #[error("line {0} is too long: a request may have {limit}", limit = limits::bytes(limits::BATCH_BODY))]
    LongLine(usize),
    /// A line with a mistake in a field of its request.
    #[error("line {0}: {1}")]
    LineField(usize, #[source] BadField),
    /// A mistake in a field of the request.
    #[error(transparent)]
    Field(#[from] BadField),
    /// Not JSON.
    #[error(
        "the input is not JSON: {0}; put text in double quotes and the whole in single quotes: '{{\"prompt\": \"hi\"}}'"
    )]
    NotJson(#[from] serde_json::Error),
}

/// A field of a request whose value has another type.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` has a wrong value: {}", without_place(.source))]
pub(crate) struct BadField {
    name: String,
    source: serde_json::Error,
}

/// Where the mistake is, without the number of the only line.
fn in_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason).to_owned()
}

/// The request body.
pub(crate) fn build(args: &SubmitArgs) -> Result<String, RequestError> {
    if args.policy_execution_timeout.zip(args.policy_ttl).is_some_and(|(run, ttl)| run >= ttl) {
        return Err(RequestError::Policy);
    }
    let text = match (&args.json_input, &args.input) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read(path).map_err(|error| unreadable(path, error))?,
        (None, None) => return Err(RequestError::Missing),
    };
    let mut request = as_request(&text)?;
    check(&request)?;
    let chosen = chosen_policy(args);
    if !chosen.is_empty() {
        let given = request.get("policy").and_then(|policy| serde_json::from_str(policy.get()).ok());
        let mut policy: Map<String, Value> = given.unwrap_or_default();
        policy.extend(chosen);
        request.insert("policy".to_owned(), to_raw_value(&policy)?);
    }
    Ok(serde_json::to_string(&request)?)
}

pub(super) fn unreadable(path: &Path, error: std::io::Error) -> RequestError {
    let path = path.display().to_string();
    if error.kind() == ErrorKind::InvalidData {
        return RequestError::Encoding(path);
    }
    RequestError::Unreadable(path, error)
}

/// The text without the byte order mark that some editors and shells put at the beginning of a file.
pub(super) fn without_mark(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// A JSON object with a top-level `input` as it is, any other JSON as the input of a request.
pub(super) fn as_request(text: &str) -> Result<BTreeMap<String, Box<RawValue>>, serde_json::Error> {
    let text = without_mark(text);
    let input: Box<RawValue> = serde_json::from_str(text)?;
    Ok(match serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text) {
        Ok(request) if request.contains_key("input") => request,
        _ => BTreeMap::from([("input".to_owned(), input)]),
    })
}

/// Refuses values of a wrong type, which the endpoint would find at a place in the body that nobody has seen.
pub(super) fn check(request: &BTreeMap<String, Box<RawValue>>) -> Result<(), BadField> {
    for (name, value) in request.iter().filter(|(name, _)| *name != "input") {
        check_field(name, value).map_err(|source| BadField { name: name.clone(), source })?;
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?.take(MAX_INPUT).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn chosen_policy(args: &SubmitArgs) -> Map<String, Value> {
    let mut policy = Map::new();
    let millis = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    if let Some(time) = args.policy_execution_timeout {
        policy.insert("executionTimeout".to_owned(), millis(time));
    }
    if args.policy_low_priority {
        policy.insert("lowPriority".to_owned(), Value::Bool(true));
    }
    if let Some(time) = args.policy_ttl {
        policy.insert("ttl".to_owned(), millis(time));
    }
    policy
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn body(args: &[&str]) -> Result<String, RequestError> {
        let cli = Cli::try_parse_from(["runpod-endpoint", "submit"].iter().chain(args)).unwrap();
        let Command::Submit(args) = cli.command else { panic!("not submit") };
        build(&args)
    }

    #[test]
    fn an_input_is_wrapped_and_a_request_is_sent_as_it_is() {
        assert_eq!(body(&[r#"{"n": 1.50}"#]).unwrap(), r#"{"input":{"n": 1.50}}"#);
        assert_eq!(body(&[r#"{"input": {}, "id": "t"}"#]).unwrap(), r#"{"id":"t","input":{}}"#);
        assert_eq!(body(&["[1]"]).unwrap(), r#"{"input":[1]}"#);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_input() {
        assert_eq!(body(&["\u{feff}{\"n\": 1}"]).unwrap(), r#"{"input":{"n": 1}}"#);
    }

    #[test]
    fn policy_flags_join_the_given_policy() {
        let request = body(&[r#"{"input":1,"policy":{"ttl":20000}}"#, "--policy-execution-timeout", "30s"]).unwrap();
        assert_eq!(request, r#"{"input":1,"policy":{"executionTimeout":30000,"ttl":20000}}"#);
    }

    #[test]
    fn a_job_that_would_be_removed_before_its_time_is_over_is_refused() {
        let times = |run, ttl| body(&["1", "--policy-execution-timeout", run, "--policy-ttl", ttl]);
        assert!(matches!(times("1h", "10s"), Err(RequestError::Policy)));
        assert!(times("10s", "1h").is_ok());
    }

    #[test]
    fn text_that_is_not_json_is_refused_with_the_fix() {
        let error = body(&["prompt=hi"]).unwrap_err().to_string();
        assert!(error.contains("'{\"prompt\": \"hi\"}'"), "{error}");
    }
}
