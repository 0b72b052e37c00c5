//! Reads JSON as Python writes it: truthiness, `null` as a value, and tokens that strict parsers refuse.

use std::borrow::Cow;
use std::fmt::{self, Formatter};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A value that is read from a JSON object. Serde alone would also accept an array of the fields in order.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, text: &mut Formatter<'_>) -> fmt::Result {
                text.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Reads a JSON object.
pub(crate) fn object<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(json).map(|Object(value)| value)
}

/// For a field that is an object or missing.
pub(crate) fn optional_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// For a list of objects.
pub(crate) fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(deserializer)?.into_iter().map(|Object(value)| value).collect())
}

/// Reads JSON as Python writes it, with tokens that strict parsers refuse.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(json).or_else(|_| serde_json::from_str(&strict(json)))
}

/// The JSON without what Python's encoder writes and strict parsers refuse.
pub(crate) fn strict(json: &str) -> Cow<'_, str> {
    match without_non_finite(json) {
        Cow::Borrowed(text) => without_lone_surrogates(text),
        Cow::Owned(text) => Cow::Owned(without_lone_surrogates(&text).into_owned()),
    }
}

/// For fields where `null` is a value and not an absence.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Truth as in Python: it decides whether a result counts as an error.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside of strings by `null`: Python's encoder writes them.
fn without_non_finite(text: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut copied = 0;
    let mut in_string = false;
    let mut escaped = false;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let token = match byte {
            _ if escaped => {
                escaped = false;
                None
            }
            b'\\' if in_string => {
                escaped = true;
                None
            }
            b'"' => {
                in_string = !in_string;
                None
            }
            b'N' | b'I' | b'-' if !in_string => {
                ["NaN", "-Infinity", "Infinity"].into_iter().find(|token| bytes[at..].starts_with(token.as_bytes()))
            }
            _ => None,
        };
        if let Some(token) = token {
            clean.push_str(&text[copied..at]);
            clean.push_str("null");
            at += token.len();
            copied = at;
        } else {
            at += 1;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[copied..]);
    Cow::Owned(clean)
}

/// Replaces escaped halves of surrogate pairs by U+FFFD: Python's encoder writes them for file names that are not UTF-8.
fn without_lone_surrogates(text: &str) -> Cow<'_, str> {
    let mut clean = String::new();
    let mut copied = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        let begin = at + found;
        at = match (code_unit(&bytes[begin..]), bytes.get(begin + ESCAPE..).and_then(code_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => begin + 2 * ESCAPE,
            (Some(0xd800..=0xdfff), _) => {
                clean.push_str(&text[copied..begin]);
                clean.push(char::REPLACEMENT_CHARACTER);
                copied = begin + ESCAPE;
                copied
            }
            _ => bytes.len().min(begin + 2),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    clean.push_str(&text[copied..]);
    Cow::Owned(clean)
}

/// Length of `\u0000`.
const ESCAPE: usize = 6;

/// The code unit of UTF-16 that stands escaped at the begin.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_become_null_outside_of_strings_only() {
        let text = r#"{"a": NaN, "b": [-Infinity, Infinity, -1], "NaN": "Infinity \" NaN"}"#;
        let clean = r#"{"a": null, "b": [null, null, -1], "NaN": "Infinity \" NaN"}"#;
        assert_eq!(without_non_finite(text), clean);
    }

    #[test]
    fn halves_of_surrogate_pairs_are_replaced() {
        for (text, clean) in [
            (r#""caf\udce9""#, "\"caf\u{fffd}\""),
            (r#""\ud83d\uD83D\uDe00\ude00ä""#, "\"\u{fffd}\\uD83D\\uDe00\u{fffd}ä\""),
            (r#""\\udce9 \\\udce9""#, "\"\\\\udce9 \\\\\u{fffd}\""),
            (r#""\u00e9 \n \ud8"#, r#""\u00e9 \n \ud8"#),
            ("\\", "\\"),
        ] {
            assert_eq!(without_lone_surrogates(text), clean, "{text}");
        }
        assert_eq!(read::<Value>(r#"["\udce9", NaN]"#).unwrap(), serde_json::json!(["\u{fffd}", null]));
    }

    #[test]
    fn truth_follows_python() {
        for falsy in ["null", "false", "0", "0.0", "-0.0", "\"\"", "[]", "{}"] {
            assert!(!is_truthy(&serde_json::from_str(falsy).unwrap()), "{falsy}");
        }
        for truthy in ["true", "1", "\" \"", "[0]", "{\"a\":null}"] {
            assert!(is_truthy(&serde_json::from_str(truthy).unwrap()), "{truthy}");
        }
    }
}
