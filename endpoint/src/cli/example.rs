//! A value that a JSON Schema allows: the smallest that is worth sending.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Schemas within schemas that are followed; a type may contain itself.
const MAX_DEPTH: u32 = 16;

/// An example of an input: what the schema names as an example or default, else its required fields with the smallest values in
/// their ranges. Patterns are not understood: there the example may have to be changed by hand.
pub(super) fn example(schema: &RawValue) -> Value {
    let root: Value = serde_json::from_str(schema.get()).unwrap_or_default();
    Examples { root: &root }.of(&root, "", MAX_DEPTH)
}

struct Examples<'a> {
    root: &'a Value,
}

impl Examples<'_> {
    /// `name` is that of the field, which says more than nothing in a text.
    fn of(&self, schema: &Value, name: &str, depth: u32) -> Value {
        let Some(below) = depth.checked_sub(1) else { return Value::Null };
        if let Some(given) = given(schema) {
            return given;
        }
        if let Some(target) = schema["$ref"].as_str() {
            let target = target.strip_prefix('#').and_then(|path| self.root.pointer(path));
            return target.map_or(Value::Null, |target| self.of(target, name, below));
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.all(parts, schema, name, below);
        }
        let choices = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
        if let Some(choice) = choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")) {
            // What stands beside the choice holds for all of them.
            return self.all(std::slice::from_ref(choice), schema, name, below);
        }
        match kind(schema) {
            "object" => self.object(schema, below),
            "array" => self.array(schema, name, below),
            "integer" => integer(schema),
            "number" => number(schema),
            "boolean" => Value::Bool(true),
            "string" => text(schema, name).into(),
            _ => Value::Null,
        }
    }

    /// A value for all parts: the fields of all of them, or the value of the first that is no object.
    fn all(&self, parts: &[Value], beside: &Value, name: &str, depth: u32) -> Value {
        let mut fields = match kind(beside) {
            "object" => self.object(beside, depth).as_object().cloned().unwrap_or_default(),
            _ => Map::new(),
        };
        for part in parts {
            match self.of(part, name, depth) {
                Value::Object(more) => fields.extend(more),
                Value::Null => {}
                other => return other,
            }
        }
        Value::Object(fields)
    }

    fn object(&self, schema: &Value, depth: u32) -> Value {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        required.map(|name| (name.to_owned(), self.of(&schema["properties"][name], name, depth))).collect()
    }

    fn array(&self, schema: &Value, name: &str, depth: u32) -> Value {
        let first = schema["prefixItems"].as_array().into_iter().flatten();
        let mut items: Vec<_> = first.map(|item| self.of(item, name, depth)).collect();
        let max = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        // One item shows what belongs into the list.
        let wanted = schema["minItems"].as_u64().unwrap_or(1).clamp(1, 64).min(max);
        if schema["items"].is_object() {
            let item = self.of(&schema["items"], name, depth);
            let missing = usize::try_from(wanted).unwrap_or(1).saturating_sub(items.len());
            items.extend(std::iter::repeat_n(item, missing));
        }
        Value::Array(items)
    }
}

/// A value that the schema itself names.
fn given(schema: &Value) -> Option<Value> {
    let first = |list: &Value| list.as_array().and_then(|list| list.first().cloned());
    let named = first(&schema["examples"]).or_else(|| schema.get("const").cloned()).or_else(|| first(&schema["enum"]));
    named.or_else(|| schema.get("default").filter(|default| !default.is_null()).cloned())
}

/// The type; of several the first that is not null. A schema without one may still say what it is about.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null"),
        _ if schema["properties"].is_object() => "object",
        _ => "",
    }
}

fn integer(schema: &Value) -> Value {
    let limit = |name: &str| schema[name].as_i64();
    let least = limit("minimum").or_else(|| limit("exclusiveMinimum").map(|least| least.saturating_add(1)));
    let most = limit("maximum").or_else(|| limit("exclusiveMaximum").map(|most| most.saturating_sub(1)));
    let value = least.unwrap_or_else(|| most.unwrap_or(1).min(1));
    match limit("multipleOf").filter(|step| *step > 0) {
        // Up to the next multiple.
        Some(step) => json!(value.saturating_add((step - value.rem_euclid(step)) % step)),
        // What schemars writes for an unsigned number is a minimum of 0; 1 is a better example.
        None if value == 0 && most.is_none_or(|most| most >= 1) => json!(1),
        None => json!(value),
    }
}

fn number(schema: &Value) -> Value {
    let limit = |name: &str| schema[name].as_f64();
    let most = limit("maximum").or_else(|| limit("exclusiveMaximum"));
    let value = match (limit("minimum"), limit("exclusiveMinimum"), most) {
        (Some(least), _, _) => least,
        (None, Some(least), Some(most)) => f64::midpoint(least, most),
        (None, Some(least), None) => least + 1.0,
        (None, None, Some(most)) => (most - 1.0).min(1.0),
        (None, None, None) => 1.0,
    };
    json!(value)
}

fn text(schema: &Value, name: &str) -> String {
    let text = match schema["format"].as_str() {
        Some("date-time") => "2026-01-31T12:00:00Z",
        Some("date") => "2026-01-31",
        Some("uri" | "url") => "https://example.com/",
        Some("email") => "a@example.com",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        _ if name.is_empty() => "text",
        _ => name,
    };
    let length = |limit: &str| schema[limit].as_u64().and_then(|length| usize::try_from(length).ok());
    let (least, most) = (length("minLength").unwrap_or(0).min(256), length("maxLength").unwrap_or(usize::MAX));
    text.chars().cycle().take(text.chars().count().max(least).min(most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(schema: &Value) -> Value {
        example(&serde_json::value::to_raw_value(schema).unwrap())
    }

    /// Each schema as schemars writes it.
    #[test]
    fn required_fields_have_the_smallest_values_that_are_allowed() {
        let schema = json!({
            "type": "object",
            "required": ["prompt", "count", "scale", "mode", "size", "names", "rows", "code", "when"],
            "properties": {
                "prompt": {"type": "string", "minLength": 1, "maxLength": 2000},
                "count": {"type": "integer", "format": "uint32", "minimum": 3, "maximum": 10},
                "scale": {"type": "number", "exclusiveMinimum": 0.0, "exclusiveMaximum": 1.0},
                "mode": {"$ref": "#/$defs/Mode"},
                "size": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Size"}]},
                "names": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "rows": {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}},
                "code": {"type": ["string", "null"], "minLength": 6, "maxLength": 6},
                "when": {"type": "string", "format": "date-time"},
                "optional": {"type": "string"}
            },
            "$defs": {
                "Mode": {"type": "string", "enum": ["fast", "good"]},
                "Size": {"type": "object", "required": ["width"], "properties": {
                    "width": {"type": "integer", "multipleOf": 8, "minimum": 60}}}
            }
        });
        assert_eq!(
            of(&schema),
            json!({
                "prompt": "prompt", "count": 3, "scale": 0.5, "mode": "fast", "size": {"width": 64},
                "names": ["names", "names"], "rows": [[1.0, 1.0, 1.0, 1.0]], "code": "codeco",
                "when": "2026-01-31T12:00:00Z"
            })
        );
    }

    #[test]
    fn what_the_schema_names_is_taken() {
        assert_eq!(of(&json!({"type": "integer", "examples": [7, 8], "minimum": 1})), json!(7));
        assert_eq!(of(&json!({"type": "integer", "default": 4})), json!(4));
        assert_eq!(of(&json!({"const": "x"})), json!("x"));
        assert_eq!(of(&json!({"type": "integer", "format": "uint", "minimum": 0})), json!(1));
        assert_eq!(of(&json!({"type": "integer", "maximum": -2})), json!(-2));
    }

    #[test]
    fn tagged_enums_and_flattened_parts_are_put_together() {
        let tagged = json!({"oneOf": [{
            "type": "object", "required": ["kind", "text"],
            "properties": {"kind": {"type": "string", "const": "say"}, "text": {"type": "string"}}
        }]});
        assert_eq!(of(&tagged), json!({"kind": "say", "text": "text"}));
        let both = json!({
            "type": "object", "required": ["a"], "properties": {"a": {"type": "boolean"}},
            "anyOf": [{"type": "object", "required": ["b"], "properties": {"b": {"type": "integer"}}}]
        });
        assert_eq!(of(&both), json!({"a": true, "b": 1}));
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let list = json!({"$ref": "#/$defs/L", "$defs": {"L": {
            "type": "object", "required": ["next"], "properties": {"next": {"$ref": "#/$defs/L"}}
        }}});
        assert!(of(&list).is_object());
        assert_eq!(of(&json!(true)), Value::Null);
    }
}
