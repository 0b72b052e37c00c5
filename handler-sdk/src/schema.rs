//! The JSON Schema of a handler's input, enforced: finds everything in an input that the schema forbids.
//!
//! Serde reads an input by the same Rust type and stops at its first problem. It does not know the rest of the schema, such as
//! ranges, lengths and patterns.

mod without_texts;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use self::without_texts::{WithoutTexts, reads_texts};
use crate::error::HandlerError;
use crate::text::cut;

/// Most problems that are reported at once.
const MAX_PROBLEMS: usize = 16;
/// Longest text of one problem, in bytes. It can quote a long value or schema.
pub(crate) const MAX_PROBLEM: usize = 512;

/// One problem with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where it is, as in `sentences[2].text`; empty for the input as a whole.
    pub(crate) path: String,
    pub(crate) text: String,
    /// It is about a field that is missing at `path` or unknown there. Several such problems can have the same path.
    pub(crate) about_a_field: bool,
}

impl Problem {
    /// `input.sentences[2]: expected a string, got a number`
    pub(crate) fn line(&self, root: &str) -> String {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        format!("{root}{dot}{}: {}", self.path, self.text)
    }
}

/// A compiled JSON Schema.
#[derive(Debug)]
pub(crate) struct InputSchema {
    /// `None` for a schema that permits everything.
    validator: Option<Validator>,
    /// It says something about the contents of texts.
    reads_texts: bool,
}

impl InputSchema {
    /// # Errors
    /// When the schema is not a valid one, for example because of a pattern that is not a regular expression.
    pub(crate) fn compile(schema: &Value) -> Result<Self, HandlerError> {
        if permits_everything(schema) {
            return Ok(Self { validator: None, reads_texts: false });
        }
        // The linear-time engine: a pattern must not make an input expensive.
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        let validator = options
            .build(schema)
            .map_err(|error| HandlerError::from(format!("the JSON Schema of the input type is not valid: {error}")))?;
        Ok(Self { validator: Some(validator), reads_texts: reads_texts(schema) })
    }

    /// The problems of an input that serde could not read, at most [`MAX_PROBLEMS`].
    pub(crate) fn problems(&self, value: &Value) -> Vec<Problem> {
        self.find(value, |_| true)
    }

    /// The problems of an input that serde has read. Serde decides which fields are required and which are unknown, because it
    /// knows aliases, which the schema does not show.
    pub(crate) fn problems_beyond_serde(&self, text: &[u8]) -> Vec<Problem> {
        if self.validator.is_none() {
            return Vec::new();
        }
        let value = if self.reads_texts {
            serde_json::from_slice(text)
        } else {
            serde_json::from_slice(text).map(|WithoutTexts(value)| value)
        };
        // Serde has read the same text.
        value.map_or_else(|_| Vec::new(), |value| self.find(&value, |error| !is_about_names(error)))
    }

    fn find(&self, value: &Value, counts: impl Fn(&ValidationError<'_>) -> bool) -> Vec<Problem> {
        let mut found = Vec::new();
        let Some(validator) = self.validator.as_ref().filter(|validator| !validator.is_valid(value)) else {
            return found;
        };
        for error in validator.iter_errors(value).filter(counts) {
            collect(&error, &mut found);
        }
        found
    }
}

/// Whether the schema has no more than annotations, as that of `serde_json::Value`.
fn permits_everything(schema: &Value) -> bool {
    match schema {
        Value::Object(keywords) => {
            keywords.keys().all(|key| matches!(key.as_str(), "$schema" | "title" | "description"))
        }
        other => *other == Value::Bool(true),
    }
}

/// Whether the error is only about the names of fields, which serde has accepted.
fn is_about_names(error: &ValidationError<'_>) -> bool {
    match error.kind() {
        ValidationErrorKind::Required { .. }
        | ValidationErrorKind::AdditionalProperties { .. }
        | ValidationErrorKind::UnevaluatedProperties { .. } => true,
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            best_branch(error, context).is_some_and(|branch| branch.iter().all(is_about_names))
        }
        _ => false,
    }
}

/// Adds the problems of an error. For a choice of schemas those are the problems of the best branch.
fn collect(error: &ValidationError<'_>, found: &mut Vec<Problem>) {
    if let ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } = error.kind()
        && let Some(branch) = best_branch(error, context)
    {
        branch.iter().for_each(|error| collect(error, found));
        return;
    }
    let texts = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| format!("unknown field `{name}`")).collect()
        }
        _ => vec![describe(error)],
    };
    let about_a_field =
        matches!(error.kind(), ValidationErrorKind::Required { .. } | ValidationErrorKind::AdditionalProperties { .. });
    for text in texts.into_iter().take(MAX_PROBLEMS.saturating_sub(found.len())) {
        let text = cut(&text, MAX_PROBLEM).into_owned();
        found.push(Problem { path: path_of(error.instance_path()), text, about_a_field });
    }
}

/// The branch of a choice that the input was meant for: the only one whose type and tag it has. `None` when that is not clear.
fn best_branch<'a>(
    choice: &ValidationError<'_>,
    branches: &'a [Vec<ValidationError<'static>>],
) -> Option<&'a [ValidationError<'static>]> {
    let is_other = |error: &ValidationError<'_>| match error.kind() {
        ValidationErrorKind::Constant { .. } => true,
        ValidationErrorKind::Type { .. } => error.instance_path() == choice.instance_path(),
        _ => false,
    };
    let mut meant = branches.iter().filter(|branch| !branch.iter().any(is_other));
    match (meant.next(), meant.next()) {
        (Some(branch), None) => Some(branch),
        _ => None,
    }
}

/// The problem in words. Values are never quoted, because they may be secret.
fn describe(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            format!("missing field `{}`", property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Type { kind } => format!("expected {}, got {}", expected(kind), name_of(error.instance())),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("must be greater than {limit}"),
        ValidationErrorKind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        ValidationErrorKind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        ValidationErrorKind::MinLength { limit } => format!("must have {limit} or more characters"),
        ValidationErrorKind::MaxLength { limit } => format!("must have {limit} or fewer characters"),
        ValidationErrorKind::MinItems { limit } => format!("must have {limit} or more items"),
        ValidationErrorKind::MaxItems { limit } => format!("must have {limit} or fewer items"),
        ValidationErrorKind::MinProperties { limit } => format!("must have {limit} or more fields"),
        ValidationErrorKind::MaxProperties { limit } => format!("must have {limit} or fewer fields"),
        ValidationErrorKind::UniqueItems => "must not contain an item twice".to_owned(),
        ValidationErrorKind::Pattern { pattern } => format!("must match the pattern {pattern}"),
        ValidationErrorKind::Enum { options } => format!("must be one of {options}"),
        ValidationErrorKind::Constant { expected_value } => format!("must be {expected_value}"),
        ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            "does not have any of the permitted forms".to_owned()
        }
        _ => error.masked().to_string(),
    }
}

fn expected(kind: &TypeKind) -> String {
    let article = |name: &str| match name {
        "null" => "null".to_owned(),
        "integer" | "array" | "object" => format!("an {name}"),
        _ => format!("a {name}"),
    };
    match kind {
        TypeKind::Single(kind) => article(&kind.to_string()),
        TypeKind::Multiple(kinds) => {
            let mut names: Vec<_> = kinds.iter().map(|kind| article(&kind.to_string())).collect();
            names.sort_by_key(|name| name == "null");
            names.join(" or ")
        }
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn path_of(location: &Location) -> String {
    let mut path = String::new();
    for segment in location {
        match segment {
            LocationSegment::Index(index) => path.push_str(&format!("[{index}]")),
            LocationSegment::Property(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&name);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests;
