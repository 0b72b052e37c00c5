use serde_json::json;

use super::*;

fn compile(schema: &Value) -> InputSchema {
    InputSchema::compile(schema).unwrap()
}

fn lines(schema: &Value, value: &Value) -> Vec<String> {
    compile(schema).problems(value).iter().map(|problem| problem.line("input")).collect()
}

fn beyond_serde(schema: &Value, value: &Value) -> Vec<String> {
    compile(schema)
        .problems_beyond_serde(value.to_string().as_bytes())
        .iter()
        .map(|problem| problem.line("input"))
        .collect()
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
    let mut found = lines(&schema, &json!({"size": {"width": 1.5}, "name": 1}));
    found.sort_unstable();
    assert_eq!(
        found,
        ["input.name: expected a string or null, got a number", "input.size.width: expected an integer, got a number"]
    );
    assert_eq!(lines(&schema, &json!({"size": {}})), ["input.size: missing field `width`"]);
}

#[test]
fn every_limit_of_the_schema_is_a_problem_with_its_path() {
    let schema = json!({
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 1, "maximum": 10},
            "scale": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2},
            "step": {"type": "integer", "multipleOf": 8},
            "name": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[a-z]+$"},
            "mode": {"enum": ["fast", "exact"]},
            "tags": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": true, "items": {"maxLength": 4}},
        },
    });
    let cases = [
        (json!({"count": 50}), "input.count: must be at most 10"),
        (json!({"count": 0}), "input.count: must be at least 1"),
        (json!({"scale": 0}), "input.scale: must be greater than 0"),
        (json!({"scale": 2.0}), "input.scale: must be less than 2"),
        (json!({"step": 12}), "input.step: must be a multiple of 8"),
        (json!({"name": "a"}), "input.name: must have 2 or more characters"),
        (json!({"name": "abcd"}), "input.name: must have 3 or fewer characters"),
        (json!({"name": "A1"}), "input.name: must match the pattern ^[a-z]+$"),
        (json!({"mode": "slow"}), "input.mode: must be one of [\"fast\",\"exact\"]"),
        (json!({"tags": []}), "input.tags: must have 1 or more items"),
        (json!({"tags": ["a", "b", "c"]}), "input.tags: must have 2 or fewer items"),
        (json!({"tags": ["a", "a"]}), "input.tags: must not contain an item twice"),
        (json!({"tags": ["a", "longer"]}), "input.tags[1]: must have 4 or fewer characters"),
    ];
    for (input, problem) in cases {
        assert_eq!(beyond_serde(&schema, &input), [problem], "{input}");
    }
    let all = beyond_serde(&schema, &json!({"count": 50, "step": 12, "mode": "slow"}));
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn a_problem_inside_a_variant_has_its_own_path() {
    let variant = |tag: &str, limit: u32| {
        json!({
            "type": "object",
            "properties": {"do": {"type": "string", "const": tag}, "ms": {"type": "integer", "maximum": limit}},
            "required": ["do", "ms"],
        })
    };
    let schema = json!({"oneOf": [variant("sleep", 10), variant("spin", 20)]});
    assert_eq!(beyond_serde(&schema, &json!({"do": "spin", "ms": 15})), [""; 0]);
    assert_eq!(beyond_serde(&schema, &json!({"do": "sleep", "ms": 15})), ["input.ms: must be at most 10"]);
    assert_eq!(lines(&schema, &json!({"do": "sleep", "ms": "x"})), ["input.ms: expected an integer, got a string"]);
    assert_eq!(lines(&schema, &json!({"do": "jump"})), ["input: does not have any of the permitted forms"]);
}

#[test]
fn a_schema_that_says_nothing_about_texts_finds_the_same_in_an_input_whose_texts_are_not_copied() {
    let schema = json!({
        "type": "object", "required": ["text"],
        "properties": {
            "text": {"type": "string"}, "count": {"type": "integer", "format": "uint8", "minimum": 0, "maximum": 255},
            "tags": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        },
    });
    assert!(!compile(&schema).reads_texts);
    for (input, problem) in [
        (json!({"text": "x", "count": 256}), "input.count: must be at most 255"),
        (json!({"text": 1}), "input.text: expected a string, got a number"),
        (json!({"text": "x", "tags": ["a", "b"]}), "input.tags: must have 1 or fewer items"),
        (json!({"text": "x", "tags": [null]}), "input.tags[0]: expected a string, got null"),
        (json!(["x"]), "input: expected an object, got an array"),
    ] {
        assert_eq!(beyond_serde(&schema, &input), [problem], "{input}");
        assert!(lines(&schema, &input).contains(&problem.to_owned()), "{input}");
    }
    assert_eq!(beyond_serde(&schema, &json!({"text": "x".repeat(1000), "tags": ["a"]})), [""; 0]);
}

#[test]
fn serde_decides_which_fields_there_may_be() {
    let schema = json!({
        "type": "object", "required": ["text"], "additionalProperties": false,
        "properties": {"text": {"type": "string"}, "count": {"type": "integer", "maximum": 10}},
    });
    let input = json!({"alias_of_text": "a", "count": 11});
    assert_eq!(beyond_serde(&schema, &input), ["input.count: must be at most 10"]);
    let mut all = lines(&schema, &input);
    all.sort_unstable();
    assert_eq!(
        all,
        ["input.count: must be at most 10", "input: missing field `text`", "input: unknown field `alias_of_text`"]
    );
}

#[test]
fn a_schema_without_limits_finds_no_problem() {
    for schema in [
        json!(true),
        json!({}),
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "AnyValue"}),
    ] {
        assert!(compile(&schema).validator.is_none(), "{schema}");
        assert_eq!(lines(&schema, &json!([])), [""; 0]);
    }
}

#[test]
fn a_value_is_never_quoted() {
    let schema =
        json!({"properties": {"token": {"maxLength": 3, "pattern": "^x", "const": "y", "contentEncoding": "base64"}}});
    let all = lines(&schema, &json!({"token": "hunter22"}));
    assert!(all.len() >= 3 && !all.iter().any(|line| line.contains("hunter22")), "{all:?}");
}

#[test]
fn the_number_of_problems_is_limited() {
    let schema = json!({"type": "array", "items": {"type": "string"}});
    let found = lines(&schema, &json!(vec![0; 1000]));
    assert_eq!(found.len(), MAX_PROBLEMS);
    assert_eq!(found[1], "input[1]: expected a string, got a number");
}

#[test]
fn a_schema_that_is_not_valid_is_an_error() {
    let error = InputSchema::compile(&json!({"properties": {"a": {"pattern": "("}}})).unwrap_err();
    assert!(error.message().starts_with("the JSON Schema of the input type is not valid: "), "{error}");
}
