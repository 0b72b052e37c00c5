//! The job object: its `input` becomes the handler's type, or an error that names every problem.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::HandlerError;
use crate::schema_check::{Problem, problems};
use crate::text::{cut, log};

/// An error quotes the value that it is about, which can be long.
const MAX_PROBLEM: usize = 512;
/// After this many different unknown fields no more are named.
const MAX_UNKNOWN_FIELDS: usize = 100;

/// A job as the queue sent it.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) input: Option<Box<RawValue>>,
    /// The other top-level fields.
    pub(crate) fields: HashMap<String, Box<RawValue>>,
}

pub(crate) fn parse_envelope(job: &[u8]) -> Result<Envelope, HandlerError> {
    let mut fields: HashMap<String, Box<RawValue>> = serde_json::from_slice(job)
        .map_err(|error| HandlerError::validation(format!("the job is not a JSON object: {error}")))?;
    Ok(Envelope { input: fields.remove("input"), fields })
}

/// A missing input counts as `{}`, because the platform drops empty objects; `null` does where the type does not take it.
pub(crate) fn parse_input<T: DeserializeOwned + JsonSchema>(raw: Option<&RawValue>) -> Result<T, HandlerError> {
    let mut text = raw.map_or("{}", RawValue::get);
    if text == "null" {
        if let Ok(value) = serde_json::from_str(text) {
            return Ok(value);
        }
        text = "{}";
    }
    parse(text, |unknown| warn_unknown("input", unknown)).map_err(|first| {
        let mut found = vec![first];
        if let Ok(value) = serde_json::from_str(text) {
            let others = problems(schemars::schema_for!(T).as_value(), &value);
            let news =
                |problem: &Problem| problem.path != found[0].path || problem.missing && problem.text != found[0].text;
            let others: Vec<_> = others.into_iter().filter(news).collect();
            found.extend(others);
        }
        let lines: Vec<_> = found.iter().map(|problem| problem.line("input")).collect();
        HandlerError::validation(lines.join("; "))
    })
}

/// Another top-level field. Serde's text quotes the value, which may be a secret: only what was expected is told.
pub(crate) fn parse_field<T: DeserializeOwned>(name: &str, raw: &RawValue) -> Result<Option<T>, HandlerError> {
    parse(raw.get(), |unknown| warn_unknown(name, unknown)).map_err(|problem| {
        let text = match problem.text.rsplit_once(", expected ") {
            Some((_, expected)) => format!("expected {expected}"),
            None if problem.missing => problem.text,
            None => "not of the expected form".to_owned(),
        };
        HandlerError::validation(Problem { text, ..problem }.line(name))
    })
}

fn parse<T: DeserializeOwned>(text: &str, mut unknown: impl FnMut(&str)) -> Result<T, Problem> {
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    serde_ignored::deserialize(tracked, |path| unknown(&path.to_string())).map_err(|error: serde_json::Error| {
        let path = track.path();
        // The place in the text is of no use to someone who sent an object: the path says it better.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = error.to_string();
        let text = text.strip_suffix(&place).unwrap_or(&text);
        Problem {
            path: if path.iter().len() == 0 { String::new() } else { path.to_string() },
            text: cut(text, MAX_PROBLEM).into_owned(),
            missing: text.starts_with("missing field"),
        }
    })
}

/// Warns about a field that nobody reads, once per field and process.
fn warn_unknown(root: &str, path: &str) {
    static WARNED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    // One warning for all items of a list; serde_ignored marks the inside of an `Option` with `?`.
    let segments = path.split('.').filter(|segment| *segment != "?");
    let name: String =
        segments.map(|s| if s.parse::<usize>().is_ok() { "[]".to_owned() } else { format!(".{s}") }).collect();
    let name = format!("{root}{}", cut(&name, MAX_PROBLEM));
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let warned = warned.get_or_insert_default();
    if warned.len() < MAX_UNKNOWN_FIELDS && warned.insert(name.clone()) {
        log(format_args!("{name:?} is not a field that this handler knows; it is ignored (this is said once)"));
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Item {
        #[expect(dead_code, reason = "only its presence is tested")]
        weight: f32,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only whether the fields are accepted is tested")]
    struct Input {
        sentences: Vec<String>,
        #[serde(default)]
        normalize: bool,
        model: String,
        items: Option<Vec<Item>>,
    }

    fn raw(value: &serde_json::Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn message<T: DeserializeOwned + JsonSchema + std::fmt::Debug>(input: &serde_json::Value) -> String {
        parse_input::<T>(Some(&raw(input))).unwrap_err().to_string()
    }

    #[test]
    fn one_problem_is_named_with_its_path() {
        let input = json!({"sentences": ["a", "b", 3], "model": "m"});
        assert_eq!(message::<Input>(&input), "input.sentences[2]: invalid type: integer `3`, expected a string");
    }

    #[test]
    fn all_problems_are_listed_once() {
        let input = json!({"sentences": [1, "b", 3], "normalize": "yes", "items": [{"weight": 1}, {}]});
        let message = message::<Input>(&input);
        let mut problems: Vec<_> = message.split("; ").collect();
        problems.sort_unstable();
        assert_eq!(
            problems,
            [
                "input.items[1]: missing field `weight`",
                "input.normalize: expected a boolean, got a string",
                "input.sentences[0]: expected a string, got a number",
                "input.sentences[2]: expected a string, got a number",
                "input: missing field `model`",
            ]
        );
    }

    #[test]
    fn missing_and_null_inputs_count_as_an_empty_object() {
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[serde(default)]
        struct Lenient {
            count: u32,
        }
        assert_eq!(parse_input::<Lenient>(None).unwrap().count, 0);
        assert_eq!(parse_input::<Lenient>(Some(&raw(&json!(null)))).unwrap().count, 0);
        assert_eq!(parse_input::<serde_json::Value>(Some(&raw(&json!(null)))).unwrap(), json!(null));
        let missing = "input: missing field `sentences`; input: missing field `model`";
        assert_eq!(message::<Input>(&json!(null)), missing);
    }

    #[test]
    fn input_that_is_no_object_is_one_problem() {
        assert_eq!(message::<Input>(&json!("text")), "input: invalid type: string \"text\", expected struct Input");
    }

    #[test]
    fn unknown_fields_do_not_fail_the_job() {
        let input = raw(&json!({"sentences": [], "model": "m", "sentence": [], "items": [{"weight": 1, "colour": 2}]}));
        parse_input::<Input>(Some(&input)).unwrap();
    }

    #[test]
    fn a_field_error_never_quotes_the_value() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[expect(dead_code, reason = "never built")]
        struct S3 {
            access_secret: u32,
        }
        let error = parse_field::<S3>("s3Config", &raw(&json!({"accessSecret": "hunter2"}))).unwrap_err();
        assert_eq!(error.to_string(), "s3Config.accessSecret: expected u32");
        let error = parse_field::<S3>("s3Config", &raw(&json!({}))).unwrap_err();
        assert_eq!(error.to_string(), "s3Config: missing field `accessSecret`");
        assert!(parse_field::<S3>("s3Config", &raw(&json!(null))).unwrap().is_none());
    }

    #[test]
    fn a_job_that_is_no_object_is_refused() {
        let error = parse_envelope(b"[1]").unwrap_err().to_string();
        assert!(error.starts_with("the job is not a JSON object:"), "{error}");
        let envelope = parse_envelope(br#"{"id": "a", "s3Config": {}}"#).unwrap();
        assert!(envelope.input.is_none() && envelope.fields.contains_key("s3Config"));
    }
}
