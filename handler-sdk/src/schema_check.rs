//! Finds the problems of an input beyond the first, at which serde stops: missing fields and values of the wrong type, by the
//! JSON Schema of the same Rust type.

use serde_json::Value;

/// Most problems that are reported at once.
const MAX_PROBLEMS: usize = 16;

/// One problem with an input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where it is, as in `sentences[2].text`; empty for the input as a whole.
    pub(crate) path: String,
    pub(crate) text: String,
    /// A field is missing at `path`. Several such problems can have the same path.
    pub(crate) missing: bool,
}

impl Problem {
    /// `input.sentences[2]: expected a string, got a number`
    pub(crate) fn line(&self, root: &str) -> String {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        format!("{root}{dot}{}: {}", self.path, self.text)
    }
}

/// The problems of `value` by `schema`, at most [`MAX_PROBLEMS`].
pub(crate) fn problems(schema: &Value, value: &Value) -> Vec<Problem> {
    let mut check = Check { root: schema, found: Vec::new() };
    check.walk(schema, value, String::new());
    check.found
}

struct Check<'a> {
    root: &'a Value,
    found: Vec<Problem>,
}

impl<'a> Check<'a> {
    // The recursion is bounded: every step goes one level down in `value`, whose depth serde_json limits.
    fn walk(&mut self, schema: &'a Value, value: &Value, path: String) {
        let optional = schema["anyOf"].is_array();
        let Some(schema) = self.resolve(schema) else { return };
        if self.found.len() >= MAX_PROBLEMS || optional && value.is_null() {
            return;
        }
        if !type_fits(&schema["type"], value) {
            let text = format!("expected {}, got {}", expected(&schema["type"]), name_of(value));
            return self.found.push(Problem { path, text, missing: false });
        }
        match value {
            Value::Object(fields) => {
                for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if !fields.contains_key(name) && self.found.len() < MAX_PROBLEMS {
                        let text = format!("missing field `{name}`");
                        self.found.push(Problem { path: path.clone(), text, missing: true });
                    }
                }
                for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                    if let Some(value) = fields.get(name) {
                        let dot = if path.is_empty() { "" } else { "." };
                        self.walk(schema, value, format!("{path}{dot}{name}"));
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if self.found.len() >= MAX_PROBLEMS {
                        return;
                    }
                    self.walk(&schema["items"], item, format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    /// Follows `$ref`, and `anyOf` where it only means "or null"; `None` for a schema that is not understood.
    fn resolve(&self, mut schema: &'a Value) -> Option<&'a Value> {
        // The limit is for safety: a Rust type cannot refer to itself without a level in between.
        for _ in 0..8 {
            if let Some(reference) = schema["$ref"].as_str() {
                schema = self.root.pointer(reference.strip_prefix('#')?)?;
            } else if let Some(choices) = schema["anyOf"].as_array() {
                let mut others = choices.iter().filter(|choice| choice["type"] != "null");
                schema = others.next()?;
                if others.next().is_some() {
                    return None;
                }
            } else {
                return schema.is_object().then_some(schema);
            }
        }
        None
    }
}

fn type_fits(expected: &Value, value: &Value) -> bool {
    match expected {
        Value::String(name) => match name.as_str() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        },
        Value::Array(names) => names.iter().any(|name| type_fits(name, value)),
        _ => true,
    }
}

fn expected(types: &Value) -> String {
    let article = |name: &str| match name {
        "null" => "null".to_owned(),
        "integer" | "array" | "object" => format!("an {name}"),
        _ => format!("a {name}"),
    };
    match types {
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(article).collect::<Vec<_>>().join(" or "),
        _ => types.as_str().map_or_else(String::new, article),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(schema: &Value, value: &Value) -> Vec<String> {
        problems(schema, value).iter().map(|problem| problem.line("input")).collect()
    }

    #[test]
    fn optional_parts_may_be_null_and_are_examined_otherwise() {
        let schema = json!({
            "type": "object",
            "properties": {
                "size": {"anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}]},
                "name": {"type": ["string", "null"]},
            },
            "$defs": {"Size": {"type": "object", "required": ["width"], "properties": {"width": {"type": "integer"}}}},
        });
        assert_eq!(lines(&schema, &json!({"size": null, "name": null})), [""; 0]);
        assert_eq!(
            lines(&schema, &json!({"size": {"width": 1.5}, "name": 1})),
            [
                "input.name: expected a string or null, got a number",
                "input.size.width: expected an integer, got a number"
            ]
        );
        assert_eq!(lines(&schema, &json!({"size": {}})), ["input.size: missing field `width`"]);
    }

    #[test]
    fn a_schema_that_is_not_understood_finds_no_problem() {
        let schema = json!({"anyOf": [{"type": "string"}, {"type": "integer"}]});
        assert_eq!(lines(&schema, &json!([])), [""; 0]);
        assert_eq!(lines(&json!(true), &json!([])), [""; 0]);
    }

    #[test]
    fn the_number_of_problems_is_limited() {
        let schema = json!({"type": "array", "items": {"type": "string"}});
        let found = lines(&schema, &json!(vec![0; 1000]));
        assert_eq!(found.len(), MAX_PROBLEMS);
        assert_eq!(found[1], "input[1]: expected a string, got a number");
    }
}
