use schemars::JsonSchema;
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

fn read<T: DeserializeOwned + JsonSchema>(raw: Option<&RawValue>) -> Result<T, HandlerError> {
    parse_input(
        raw.map(|raw| raw.get().as_bytes()),
        &InputSchema::compile(schemars::schema_for!(T).as_value()).unwrap(),
    )
}

fn message<T: DeserializeOwned + JsonSchema + std::fmt::Debug>(input: &serde_json::Value) -> String {
    read::<T>(Some(&raw(input))).unwrap_err().to_string()
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
    assert_eq!(read::<Lenient>(None).unwrap().count, 0);
    assert_eq!(read::<Lenient>(Some(&raw(&json!(null)))).unwrap().count, 0);
    assert_eq!(read::<serde_json::Value>(Some(&raw(&json!(null)))).unwrap(), json!(null));
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
    read::<Input>(Some(&input)).unwrap();
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
    let error = parse_envelope(&Bytes::from_static(b"[1]")).unwrap_err().to_string();
    assert!(error.starts_with("the job is not a JSON object:"), "{error}");
    let envelope = parse_envelope(&Bytes::from_static(br#"{"id": "a", "s3Config": {}}"#)).unwrap();
    assert!(envelope.input.is_none() && envelope.fields.contains_key("s3Config"));
}

#[test]
fn limits_of_the_schema_are_enforced_after_serde_has_read_the_input() {
    #[derive(Debug, Deserialize, JsonSchema)]
    struct Limited {
        #[schemars(range(min = 1, max = 10))]
        count: u32,
        #[serde(alias = "prompt")]
        #[schemars(length(max = 3), regex(pattern = "^[a-z]*$"))]
        text: String,
    }
    let limited = read::<Limited>(Some(&raw(&json!({"count": 10, "prompt": "abc"})))).unwrap();
    assert_eq!((limited.count, limited.text.as_str()), (10, "abc"));
    let mut problems: Vec<String> =
        message::<Limited>(&json!({"count": 50, "text": "ABCD"})).split("; ").map(str::to_owned).collect();
    problems.sort_unstable();
    assert_eq!(
        problems,
        [
            "input.count: must be at most 10",
            "input.text: must have 3 or fewer characters",
            "input.text: must match the pattern ^[a-z]*$",
        ]
    );
}

#[test]
fn every_unknown_field_is_named_where_the_type_denies_them() {
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code, reason = "only whether the fields are accepted is tested")]
        count: u32,
    }
    let message = message::<Strict>(&json!({"count": 1, "size": 2, "colour": 3}));
    assert!(message.contains("unknown field `size`") && message.contains("unknown field `colour`"), "{message}");
    assert_eq!(message.split("; ").count(), 2, "{message}");
}
