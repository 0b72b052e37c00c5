//! Secret inputs: the fields that a handler's schema marks as `writeOnly`, as the SDK's `Secret` does.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::limits::SCHEMA_DEPTH;
use crate::logs::redact;

/// What one handler process has said about its inputs. It has nothing secret until it says so.
#[derive(Clone, Debug, Default)]
pub(super) struct SecretInputs(Arc<OnceLock<Value>>);

impl SecretInputs {
    /// Keeps the schema of the handler's manifest if it marks anything as secret.
    pub(super) fn learn(&self, manifest: &[u8]) {
        #[derive(Deserialize)]
        struct Manifest {
            input_schema: Value,
        }
        let Ok(Manifest { input_schema }) = serde_json::from_slice(manifest) else { return };
        if marks_anything(&input_schema) {
            // A process says hello once.
            let _ = self.0.set(input_schema);
        }
    }

    /// Masks the secret inputs of a job from now on. A job without any is not parsed.
    pub(super) fn mask(&self, job: &[u8]) {
        #[derive(Deserialize)]
        struct Job<'a> {
            #[serde(borrow)]
            input: Option<&'a RawValue>,
        }
        let Some(schema) = self.0.get() else { return };
        let input = serde_json::from_slice::<Job<'_>>(job).ok().and_then(|job| job.input);
        let Some(Ok(input)) = input.map(|input| serde_json::from_str::<Value>(input.get())) else { return };
        let mut secrets = Vec::new();
        walk(schema, schema, &input, SCHEMA_DEPTH, &mut secrets);
        redact::add_all_of_job(secrets.iter().map(String::as_str));
    }
}

fn marks_anything(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => is_marked(schema) || map.values().any(marks_anything),
        Value::Array(list) => list.iter().any(marks_anything),
        _ => false,
    }
}

fn is_marked(schema: &Value) -> bool {
    schema.get("writeOnly") == Some(&Value::Bool(true))
}

/// Follows all alternatives of a schema: better a value too many is masked than one too few.
fn walk(root: &Value, schema: &Value, value: &Value, depth: usize, secrets: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    if is_marked(schema) {
        return collect(value, secrets);
    }
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?));
    if let Some(target) = target {
        walk(root, target, value, depth, secrets);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for alternative in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            walk(root, alternative, value, depth, secrets);
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let own = schema.get("properties").and_then(|properties| properties.get(name));
                if let Some(schema) = own.or_else(|| schema.get("additionalProperties")) {
                    walk(root, schema, field, depth, secrets);
                }
            }
        }
        Value::Array(items) => {
            let first = schema.get("prefixItems").and_then(Value::as_array);
            for (index, item) in items.iter().enumerate() {
                let own = first.and_then(|schemas| schemas.get(index)).or_else(|| schema.get("items"));
                if let Some(schema) = own {
                    walk(root, schema, item, depth, secrets);
                }
            }
        }
        _ => {}
    }
}

/// Every text and number in a value.
fn collect(value: &Value, secrets: &mut Vec<String>) {
    match value {
        Value::String(text) => secrets.push(text.clone()),
        Value::Number(number) => secrets.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, secrets)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, secrets)),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marked_fields_are_masked_wherever_the_schema_leads() {
        let schema = json!({
            "type": "object",
            "properties": {
                "plain": {"type": "string"},
                "token": {"type": "string", "writeOnly": true},
                "maybe": {"anyOf": [{"$ref": "#/$defs/Login"}, {"type": "null"}]},
                "list": {"type": "array", "items": {"$ref": "#/$defs/Login"}},
                "map": {"type": "object", "additionalProperties": {"type": "string", "writeOnly": true}},
                "again": {"$ref": "#"},
            },
            "$defs": {"Login": {"properties": {"password": {"writeOnly": true}, "name": {"type": "string"}}}},
        });
        let inputs = SecretInputs::default();
        inputs.learn(json!({"input_schema": schema}).to_string().as_bytes());
        let job = json!({"id": "j", "input": {
            "plain": "walk-plain-1",
            "token": "walk-token-1",
            "maybe": {"password": "walk-password-1", "name": "walk-name-1"},
            "list": [{"password": "walk-password-2"}],
            "map": {"any": "walk-map-1"},
            "again": {"token": "walk-token-2", "again": {"token": 1234567890123_u64}},
        }});
        inputs.mask(job.to_string().as_bytes());
        let text = "walk-plain-1 walk-token-1 walk-password-1 walk-name-1 walk-password-2 walk-map-1 walk-token-2 1234567890123";
        assert_eq!(redact::clean(text), "walk-plain-1 *** *** walk-name-1 *** *** *** ***");
    }

    #[test]
    fn a_handler_without_secrets_costs_nothing() {
        let inputs = SecretInputs::default();
        inputs.learn(json!({"input_schema": {"properties": {"a": {"type": "string"}}}}).to_string().as_bytes());
        assert!(inputs.0.get().is_none());
        inputs.learn(b"no json");
        inputs.mask(b"no json");
    }
}
