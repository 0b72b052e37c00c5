//! The texts of a job: one string or a list.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// Most texts in one job. Their vectors are about 20 MB of JSON, the most that RunPod accepts as a result.
pub const MAX_TEXTS: usize = 4096;

/// One text, or a list of 1 to [`MAX_TEXTS`]. The SDK holds an input to these limits, because the JSON Schema has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts(Vec<String>);

impl Texts {
    /// The texts, in order.
    pub fn texts(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

// Not derived, because the errors of untagged enums do not name the wrong element.
impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Texts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "items": { "type": "string" },
            "minItems": 1,
            "maxItems": MAX_TEXTS,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_string_and_a_list_are_accepted() {
        assert_eq!(from_value::<Texts>(json!("a")).unwrap().texts(), ["a"]);
        assert_eq!(from_value::<Texts>(json!(["a", "b"])).unwrap().texts(), ["a", "b"]);
    }

    #[test]
    fn the_error_about_another_type_names_what_was_expected() {
        let error = from_value::<Texts>(json!(7)).unwrap_err().to_string();
        assert!(error.contains("expected a string or a list of strings"), "{error}");
        assert!(from_value::<Texts>(json!(["a", 7])).is_err());
    }
}
