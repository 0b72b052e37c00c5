use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Deserialize, JsonSchema)]
struct Item {
    #[expect(dead_code, reason = "only its presence is tested")]
    weight: f32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only whether the fields are accepted is tested")]
struct Input {
    sentences: Vec<String>,
    #[serde(default)]
    normalize: bool,
    model: String,
    items: Option<Vec<Item>>,
}

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn message<T: DeserializeOwned + JsonSchema + std::fmt::Debug>(input: &serde_json::Value) -> String {
    parse_input::<T>(Some(&raw(input))).unwrap_err().to_string()
}

#[test]
fn one_problem_is_named_with_its_path() {
    let input = json!({"sentences": ["a", "b", 3], "model": "m"});
    assert_eq!(message::<Input>(&input), "input.sentences[2]: invalid type: integer `3`, expected a string");
}

#[test]
fn all_problems_are_listed_once() {
    let input = json!({"sentences": [1, "b", 3], "normalize": "yes", "items": [{"weight": 1}, {}]});
    let message = message::<Input>(&input);
    let mut problems: Vec<_> = message.split("; ").collect();
    problems.sort_unstable();
    assert_eq!(
        problems,
        [
            "input.items[1]: missing field `weight`",
            "input.normalize: expected a boolean, got a string",
            "input.sentences[0]: expected a string, got a number",
            "input.sentences[2]: expected a string, got a number",
            "input: missing field `model`",
        ]
    );
}

#[test]
fn missing_and_null_inputs_count_as_an_empty_object() {
    #[derive(Debug, Default, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Lenient {
        count: u32,
    }
    assert_eq!(parse_input::<Lenient>(None).unwrap().count, 0);
    assert_eq!(parse_input::<Lenient>(Some(&raw(&json!(null)))).unwrap().count, 0);
    assert_eq!(parse_input::<serde_json::Value>(Some(&raw(&json!(null)))).unwrap(), json!(null));
    let missing = "input: missing field `sentences`; input: missing field `model`";
    assert_eq!(message::<Input>(&json!(null)), missing);
}

#[test]
fn input_that_is_not_an_object_is_one_problem() {
    assert_eq!(message::<Input>(&json!("text")), "input: invalid type: string \"text\", expected struct Input");
}

#[test]
fn unknown_fields_do_not_fail_the_job() {
    let input = raw(&json!({"sentences": [], "model": "m", "sentence": [], "items": [{"weight": 1, "colour": 2}]}));
    parse_input::<Input>(Some(&input)).unwrap();
}

#[test]
fn a_field_error_never_quotes_the_value() {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "never built")]
    struct S3 {
        access_secret: u32,
    }
    let error = parse_field::<S3>("s3Config", &raw(&json!({"accessSecret": "hunter2"}))).unwrap_err();
    assert_eq!(error.to_string(), "s3Config.accessSecret: expected u32");
    let error = parse_field::<S3>("s3Config", &raw(&json!({}))).unwrap_err();
    assert_eq!(error.to_string(), "s3Config: missing field `accessSecret`");
    assert!(parse_field::<S3>("s3Config", &raw(&json!(null))).unwrap().is_none());
}

#[test]
fn a_job_that_is_not_an_object_is_rejected() {
    let error = parse_envelope(b"[1]").unwrap_err().to_string();
    assert!(error.starts_with("the job is not a JSON object:"), "{error}");
    let envelope = parse_envelope(br#"{"id": "a", "s3Config": {}}"#).unwrap();
    assert!(envelope.input.is_none() && envelope.fields.contains_key("s3Config"));
}
