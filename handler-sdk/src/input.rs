//! Reads the job object, and its `input` as the handler's type or as an error that names every problem.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::HandlerError;
use crate::schema::{InputSchema, MAX_PROBLEM, Problem};
use crate::text::{cut, log};

/// Most unknown fields that are logged.
const MAX_UNKNOWN_FIELDS: usize = 100;

/// A job as the queue sent it.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// Its JSON text. It can be large, so it is a part of the job's and not a copy.
    pub(crate) input: Option<Bytes>,
    /// The other top-level fields.
    pub(crate) fields: HashMap<String, Box<RawValue>>,
}

pub(crate) fn parse_envelope(job: &Bytes) -> Result<Envelope, HandlerError> {
    let mut fields: HashMap<String, &RawValue> = serde_json::from_slice(job)
        .map_err(|error| HandlerError::validation(format!("the job is not a JSON object: {error}")))?;
    let input = fields.remove("input").map(|input| job.slice_ref(input.get().as_bytes()));
    Ok(Envelope { input, fields: fields.into_iter().map(|(name, value)| (name, value.to_owned())).collect() })
}

/// Reads the input as `T`, and holds it to the JSON Schema of `T`. A missing input counts as `{}`, because the platform drops
/// empty objects. So does `null`, unless `T` accepts `null`.
pub(crate) fn parse_input<T: DeserializeOwned>(input: Option<&[u8]>, schema: &InputSchema) -> Result<T, HandlerError> {
    let mut text = input.unwrap_or(b"{}");
    if text == b"null" {
        if let Ok(value) = serde_json::from_slice(text) {
            return Ok(value);
        }
        text = b"{}";
    }
    let (value, problems) = match parse(text, |unknown| warn_unknown("input", unknown)) {
        Ok(value) => (Some(value), schema.problems_beyond_serde(text)),
        Err(first) => (None, with_others(first, text, schema)),
    };
    match value.filter(|_| problems.is_empty()) {
        Some(value) => Ok(value),
        None => {
            let lines: Vec<_> = problems.iter().map(|problem| problem.line("input")).collect();
            Err(HandlerError::validation(lines.join("; ")))
        }
    }
}

/// The first problem, at which serde stopped, and all others by the schema.
fn with_others(first: Problem, text: &[u8], schema: &InputSchema) -> Vec<Problem> {
    let Ok(value) = serde_json::from_slice(text) else { return vec![first] };
    let is_new = |problem: &Problem| {
        problem.path != first.path || problem.about_a_field && !first.text.starts_with(&problem.text)
    };
    let others: Vec<_> = schema.problems(&value).into_iter().filter(is_new).collect();
    std::iter::once(first).chain(others).collect()
}

/// Reads another top-level field. Serde's message quotes the value, which may be a secret, so the error only names what was
/// expected.
pub(crate) fn parse_field<T: DeserializeOwned>(name: &str, raw: &RawValue) -> Result<Option<T>, HandlerError> {
    parse(raw.get().as_bytes(), |unknown| warn_unknown(name, unknown)).map_err(|problem| {
        let text = match problem.text.rsplit_once(", expected ") {
            Some((_, expected)) => format!("expected {expected}"),
            None if problem.about_a_field => problem.text,
            None => "does not have the expected form".to_owned(),
        };
        HandlerError::validation(Problem { text, ..problem }.line(name))
    })
}

fn parse<T: DeserializeOwned>(text: &[u8], mut unknown: impl FnMut(&str)) -> Result<T, Problem> {
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(text);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    serde_ignored::deserialize(tracked, |path| unknown(&path.to_string())).map_err(|error: serde_json::Error| {
        let track = track.path();
        // Line and column are of no use to a caller who sent an object: the path is given instead.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = error.to_string();
        let text = text.strip_suffix(&place).unwrap_or(&text);
        let mut path = if track.iter().len() == 0 { String::new() } else { track.to_string() };
        // An unknown field is a problem of the object around it, as a missing one is.
        if text.starts_with("unknown field") {
            path.truncate(path.rfind('.').unwrap_or_default());
        }
        Problem {
            path,
            text: cut(text, MAX_PROBLEM).into_owned(),
            about_a_field: text.starts_with("missing field") || text.starts_with("unknown field"),
        }
    })
}

/// Logs a warning about an unknown field, once per field and process.
fn warn_unknown(root: &str, path: &str) {
    static WARNED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    // All items of a list share one warning. serde_ignored marks the inside of an `Option` with `?`.
    let segments = path.split('.').filter(|segment| *segment != "?");
    let name: String =
        segments.map(|s| if s.parse::<usize>().is_ok() { "[]".to_owned() } else { format!(".{s}") }).collect();
    let name = format!("{root}{}", cut(&name, MAX_PROBLEM));
    let mut warned = WARNED.lock();
    let warned = warned.get_or_insert_default();
    if warned.len() < MAX_UNKNOWN_FIELDS && warned.insert(name.clone()) {
        log(format_args!("{name:?} is not a field that this handler knows; it is ignored (logged once)"));
    }
}

#[cfg(test)]
mod tests;
