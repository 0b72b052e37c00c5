//! The error object in the text of a job's error. A worker that fails a job with an object sends JSON; RunPod's SDK makes Python's text of
//! the object that a generator has yielded.

use serde_json::{Map, Value};

use super::super::json as wire_json;

/// The error object: the text itself, or what it holds as `error`.
pub(super) fn error_object(text: &str) -> Option<Map<String, Value>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let object: Option<Map<String, Value>> = wire_json::read(text).ok();
    let mut object = object.or_else(|| wire_json::read(&json_of_python(text)?).ok())?;
    match object.remove("error") {
        Some(Value::Object(inner)) => Some(inner),
        Some(Value::String(message)) => {
            object.entry("message").or_insert(Value::String(message));
            Some(object)
        }
        _ => object.get("message").is_some_and(Value::is_string).then_some(object),
    }
}

/// The JSON of what Python writes of dictionaries, lists, strings, numbers and constants.
fn json_of_python(text: &str) -> Option<String> {
    let mut json = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.chars().next() {
        if matches!(begin, '\'' | '"') {
            let (value, after) = python_string(&rest[1..], begin)?;
            json.push_str(&Value::String(value).to_string());
            rest = after;
            continue;
        }
        let length = rest.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length.max(begin.len_utf8()));
        json.push_str(match word {
            "None" => "null",
            "True" => "true",
            "False" => "false",
            other => other,
        });
        rest = after;
    }
    Some(json)
}

/// A string after its opening quote, and what follows it.
fn python_string(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.chars();
    loop {
        match letters.next()? {
            '\\' => {
                let code = |letters: &mut std::str::Chars<'_>, digits: usize| {
                    let (code, after) = letters.as_str().split_at_checked(digits)?;
                    *letters = after.chars();
                    let code = u32::from_str_radix(code, 16).ok()?;
                    // Python's texts may hold halves of surrogate pairs.
                    Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
                };
                value.push(match letters.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'x' => code(&mut letters, 2)?,
                    'u' => code(&mut letters, 4)?,
                    'U' => code(&mut letters, 8)?,
                    other => other,
                });
            }
            letter if letter == quote => return Some((value, letters.as_str())),
            letter => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_object_is_found_in_json_and_in_pythons_text() {
        let inner = json!({"message": "it's \"m\"\nü", "type": "t", "code": null, "ok": [true, false, 1.5]});
        let python = r#"{'message': 'it\'s "m"\n\xfc', 'type': "t", 'code': None, 'ok': [True, False, 1.5]}"#;
        for text in [
            inner.to_string(),
            json!({ "error": inner }).to_string(),
            python.to_owned(),
            format!("{{'error': {python}}}"),
        ] {
            assert_eq!(error_object(&text).map(Value::from), Some(inner.clone()), "{text}");
        }
        for text in [r#"{"message": "caf\udce9"}"#, r"{'message': 'caf\udce9'}"] {
            assert_eq!(error_object(text).map(Value::from), Some(json!({"message": "caf\u{fffd}"})), "{text}");
        }
        let flat = json!({"message": "m", "code": 404});
        assert_eq!(error_object(r#"{"error": "m", "code": 404}"#).map(Value::from), Some(flat));
    }

    #[test]
    fn other_texts_have_none() {
        for text in
            ["", "m", "[1]", "{", "{'a", r"{'a\", r"{'message': '\x1'}", r"{'message': '\xé'}", "{'message': 7}", "{}"]
        {
            assert_eq!(error_object(text), None, "{text}");
        }
    }
}
