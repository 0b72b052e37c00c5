//! An input whose value must not appear in logs or errors.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A secret input, such as a token for the caller's storage: `token: Secret`, or `Secret<Login>` for a type of your own.
///
/// A secret does not implement `Serialize`, so it cannot end up in an output by mistake. `{:?}` shows `Secret(***)`, and the
/// error about a secret of the wrong form does not quote it. The JSON Schema of the input marks it as `writeOnly`. By that mark
/// the worker finds the value before it sends the job, and replaces it by `***` in every log line and error, whatever the
/// handler prints. Values of fewer than 8 bytes are not masked.
///
/// ```no_run,standalone_crate
/// use runpod_handler_sdk::Secret;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Input {
///     url: String,
///     token: Secret,
/// }
///
/// fn header(input: &Input) -> String {
///     format!("Bearer {}", input.token.expose())
/// }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T = String>(T);

impl<T> Secret<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Serde's own message quotes the value.
        T::deserialize(deserializer)
            .map(Self)
            .map_err(|_| D::Error::custom("a secret that does not have the expected form"))
    }
}

impl<T: JsonSchema> JsonSchema for Secret<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Secret_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<T>();
        schema.insert("writeOnly".to_owned(), true.into());
        schema
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::input::parse_input;
    use crate::schema::InputSchema;

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Input {
        token: Secret,
        login: Option<Secret<Login>>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    struct Login {
        #[expect(dead_code, reason = "only its form is tested")]
        pin: u32,
    }

    fn parse(input: &serde_json::Value) -> Result<Input, String> {
        let raw = serde_json::value::to_raw_value(input).unwrap();
        let schema = InputSchema::compile(schemars::schema_for!(Input).as_value()).unwrap();
        parse_input(Some(raw.get().as_bytes()), &schema).map_err(|error| error.to_string())
    }

    #[test]
    fn debug_output_does_not_show_a_secret() {
        let input = parse(&json!({"token": "hunter22", "login": {"pin": 7}})).unwrap();
        assert_eq!((input.token.expose().as_str(), input.login.is_some()), ("hunter22", true));
        assert_eq!(format!("{input:?}"), "Input { token: Secret(***), login: Some(Secret(***)) }");
    }

    #[test]
    fn the_error_about_a_secret_of_the_wrong_form_does_not_quote_it() {
        let error = parse(&json!({"token": 12345678})).unwrap_err();
        assert!(error.starts_with("input.token: a secret that does not have the expected form"), "{error}");
        let error = parse(&json!({"token": "x", "login": {"pin": "hunter22"}})).unwrap_err();
        assert!(error.contains("input.login") && !error.contains("hunter22"), "{error}");
    }

    #[test]
    fn the_schema_marks_secrets() {
        let schema = schemars::schema_for!(Input).to_value();
        assert_eq!(schema["properties"]["token"], json!({"type": "string", "writeOnly": true}));
        assert_eq!(schema["properties"]["login"]["anyOf"][0], json!({"$ref": "#/$defs/Login", "writeOnly": true}));
    }
}
