//! Whose turn a job uses, where clients take turns (`fair_by`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::auth::CallerKey;
use crate::store::storable;

/// Characters of a field's value that tell shares apart.
const MAX_SHARE: usize = 64;
const CLIENT_KEY: &str = "client-key";
const INPUT: &str = "input";

/// Over what the queue goes round robin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FairBy {
    /// The keys of clients.
    ClientKey,
    /// The values of a field of the input: the path to it.
    Field(Vec<String>),
}

impl FromStr for FairBy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == CLIENT_KEY {
            return Ok(Self::ClientKey);
        }
        let path: Option<Vec<_>> = text.strip_prefix("input.").map(|path| path.split('.').map(str::to_owned).collect());
        path.filter(|names| names.iter().all(|name| !name.is_empty()))
            .map(Self::Field)
            .ok_or("give client-key, or a field of the input such as input.user")
    }
}

impl fmt::Display for FairBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientKey => formatter.write_str(CLIENT_KEY),
            Self::Field(path) => write!(formatter, "{INPUT}.{}", path.join(".")),
        }
    }
}

impl FairBy {
    /// The share of a job with this input. Jobs without a key or the field are of one share, which has an empty name.
    pub(crate) fn share(&self, caller: &CallerKey, input: &RawValue) -> Arc<str> {
        match self {
            Self::ClientKey => caller.share().unwrap_or_default(),
            Self::Field(path) => field(path, input).map(|value| storable(&value)).unwrap_or_default(),
        }
    }
}

/// The value of the field, if it is a text or a number. Only the objects along the path are parsed.
fn field(path: &[String], input: &RawValue) -> Option<String> {
    let mut value = input;
    for name in path {
        let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(value.get()).ok()?;
        value = fields.remove(name.as_str())?;
    }
    let text = match serde_json::from_str(value.get()).ok()? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text.chars().take(MAX_SHARE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_word_or_a_path() {
        for good in ["client-key", "input.user", "input.openai_input.user"] {
            assert_eq!(good.parse::<FairBy>().unwrap().to_string(), good);
        }
        for bad in ["", "key", "user", "input", "input.", "input..a", "input.a."] {
            assert!(bad.parse::<FairBy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_field_of_the_input_is_the_share() {
        let by: FairBy = "input.user.id".parse().unwrap();
        let share = |input: &str| {
            let input = RawValue::from_string(input.to_owned()).unwrap();
            by.share(&CallerKey::default(), &input)
        };
        assert_eq!(share(r#"{"user": {"id": "ann", "age": 7}}"#).as_ref(), "ann");
        assert_eq!(share(r#"{"user": {"id": 7}}"#).as_ref(), "7");
        assert_eq!(share(r#"{"user": {"id": "a\u0000"}}"#).as_ref(), "a\u{fffd}");
        for without in [r#"{"user": "ann"}"#, r#"{"user": {"id": null}}"#, "[1]", "7", "{}"] {
            assert_eq!(share(without).as_ref(), "", "{without}");
        }
        assert_eq!(share(&format!(r#"{{"user": {{"id": "{}"}}}}"#, "ü".repeat(100))).chars().count(), 64);
    }
}
