//! An input with all of its texts empty: what a schema looks at that says nothing about the contents of texts. A large text is then
//! not copied to be held to its schema.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Keywords that depend on the contents of texts.
const ABOUT_TEXTS: [&str; 9] = [
    "const",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "enum",
    "maxLength",
    "minLength",
    "pattern",
    "uniqueItems",
];

/// Whether the contents of a text can matter to this schema. A field that has the name of a keyword counts as one.
pub(super) fn reads_texts(schema: &Value) -> bool {
    match schema {
        Value::Object(keywords) => {
            let is_about_texts = |name: &String| ABOUT_TEXTS.contains(&name.as_str());
            // Numbers have formats too, such as `uint32`.
            let has_format = keywords.contains_key("format") && keywords.get("type").is_none_or(may_be_text);
            has_format || keywords.iter().any(|(name, value)| is_about_texts(name) || reads_texts(value))
        }
        Value::Array(parts) => parts.iter().any(reads_texts),
        _ => false,
    }
}

fn may_be_text(kind: &Value) -> bool {
    let is_other = |name: &Value| matches!(name.as_str(), Some("integer" | "number" | "null"));
    !is_other(kind) && !kind.as_array().is_some_and(|kinds| kinds.iter().all(is_other))
}

/// A JSON value whose texts are empty.
pub(super) struct WithoutTexts(pub(super) Value);

impl<'de> Deserialize<'de> for WithoutTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::String(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(WithoutTexts(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, WithoutTexts(value))) = map.next_entry()? {
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_texts_are_emptied() {
        let input = json!({"a": "x", "b": [null, true, -1, 7, 2.5, {"c": "y"}]});
        let WithoutTexts(read) = serde_json::from_str(&input.to_string()).unwrap();
        assert_eq!(read, json!({"a": "", "b": [null, true, -1, 7, 2.5, {"c": ""}]}));
    }

    #[test]
    fn a_schema_reads_texts_wherever_it_says_something_about_their_contents() {
        let in_a_list = |schema: Value| json!({"properties": {"a": {"items": {"anyOf": [{"type": "null"}, schema]}}}});
        for keyword in ABOUT_TEXTS {
            assert!(reads_texts(&in_a_list(json!({keyword: 1}))), "{keyword}");
        }
        for schema in [json!({"format": "uri"}), json!({"type": ["null", "string"], "format": "uri"})] {
            assert!(reads_texts(&in_a_list(schema)));
        }
        let other = json!({
            "$schema": "s", "title": "t", "description": "d", "type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {
                "a": {"type": "string"}, "b": {"type": ["integer", "null"], "format": "uint32", "minimum": 0, "maximum": 9},
                "c": {"type": "array", "maxItems": 3, "items": {"type": "number", "format": "double"}},
            },
        });
        assert!(!reads_texts(&other));
    }
}
