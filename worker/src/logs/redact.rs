//! Secret values that must not appear in any log line, error report or health document.
//!
//! Two kinds are masked: values that are known (the key, variables whose names say so, credentials inside jobs), and whatever
//! has the form of a secret, such as the signature of a signed URL.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::secret_forms;

/// What stands in place of a secret.
const MASK: &str = "***";
/// What this program and the SDK put where a text was cut.
const ELLIPSIS: &str = "…";
/// Shorter values are no secrets, and masking them would make the log unreadable.
const MIN_LEN: usize = 8;
/// Values that came with jobs and are still masked; the ones not seen for longest are forgotten. A secret has up to four
/// spellings.
const MAX_OF_JOBS: usize = 4 * 1024;
/// What stands unescaped in a URL (RFC 3986).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Words that a name of a secret ends with.
const NAMES: [&str; 9] = ["key", "keys", "token", "tokens", "secret", "secrets", "password", "passwd", "credentials"];

static SECRETS: RwLock<Secrets> = RwLock::new(Secrets { known: Vec::new(), clock: 0 });

struct Secrets {
    /// Longest first, so that a secret that contains another one is masked as a whole.
    known: Vec<Known>,
    clock: u64,
}

struct Known {
    text: String,
    /// When a job last brought it; `None` for one that is masked for ever.
    seen: Option<u64>,
}

impl Secrets {
    fn add(&mut self, text: &str, lasting: bool) {
        self.clock += 1;
        let seen = (!lasting).then_some(self.clock);
        if let Some(known) = self.known.iter_mut().find(|known| known.text == text) {
            known.seen = known.seen.and(seen);
            return;
        }
        if !lasting && self.known.iter().filter(|known| known.seen.is_some()).count() >= MAX_OF_JOBS {
            let oldest = self.known.iter().filter_map(|known| known.seen).min();
            self.known.retain(|known| known.seen.is_none() || known.seen != oldest);
        }
        let at = self.known.partition_point(|known| known.text.len() >= text.len());
        self.known.insert(at, Known { text: text.to_owned(), seen });
    }
}

fn read() -> RwLockReadGuard<'static, Secrets> {
    SECRETS.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Secrets> {
    SECRETS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Masks `secret` from now on, in the whole process. Values of fewer than 8 bytes are ignored.
pub fn add(secret: &str) {
    let mut secrets = write();
    spellings(secret).iter().for_each(|text| secrets.add(text, true));
}

/// Masks a secret that came with a job. Those of the last thousand jobs are remembered.
pub fn add_of_job(secret: &str) {
    let mut secrets = write();
    spellings(secret).iter().for_each(|text| secrets.add(text, false));
}

/// Masks the values of variables whose names say that they are secret.
pub fn add_variables(variables: impl Iterator<Item = (String, String)>) {
    variables.filter(|(name, _)| is_secret_name(name)).for_each(|(_, value)| add(&value));
}

/// Whether the value of something so called is secret: `HF_TOKEN`, `PGPASSWORD`, `AWS_ACCESS_KEY_ID`, `accessSecret`.
pub fn is_secret_name(name: &str) -> bool {
    let mut words = words(name);
    // What follows does not make it less secret.
    while words.len() > 1 && words.last().is_some_and(|word| ["id", "value"].contains(&word.as_str())) {
        words.pop();
    }
    words.last().is_some_and(|last| NAMES.iter().any(|name| last.ends_with(name)))
}

/// The words of a name in snake, kebab or camel case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || lower && c.is_uppercase() {
            words.push(String::new());
        }
        lower = c.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The ways in which a secret may be written: line by line, quoted as in JSON or by `{:?}`, such a text quoted once more,
/// escaped as in a URL.
fn spellings(secret: &str) -> Vec<String> {
    let quoted = |text: &str| {
        let text = Value::from(text).to_string();
        text[1..text.len() - 1].to_owned()
    };
    let mut spellings = Vec::new();
    for line in secret.lines().map(str::trim).filter(|line| line.len() >= MIN_LEN) {
        let once = quoted(line);
        for form in [line.to_owned(), quoted(&once), once, utf8_percent_encode(line, IN_URL).to_string()] {
            if !spellings.contains(&form) {
                spellings.push(form);
            }
        }
    }
    spellings
}

/// `text` with every secret replaced by `***`, and every beginning of one before an ellipsis: what was cut off there would
/// not be recognised.
pub fn clean(text: &str) -> Cow<'_, str> {
    let mut cleaned = Cow::Borrowed(text);
    {
        let secrets = read();
        for Known { text: secret, .. } in &secrets.known {
            if cleaned.contains(secret.as_str()) {
                cleaned = Cow::Owned(cleaned.replace(secret.as_str(), MASK));
            }
        }
        if cleaned.contains(ELLIPSIS) {
            cleaned = Cow::Owned(mask_begun(&cleaned, &secrets));
        }
    }
    match secret_forms::mask(&cleaned) {
        Cow::Borrowed(_) => cleaned,
        Cow::Owned(masked) => Cow::Owned(masked),
    }
}

fn mask_begun(text: &str, secrets: &Secrets) -> String {
    let mut masked = String::with_capacity(text.len());
    for part in text.split_inclusive(ELLIPSIS) {
        let cut = part.strip_suffix(ELLIPSIS).map(|part| part.trim_end().trim_end_matches(char::REPLACEMENT_CHARACTER));
        let begun = cut.and_then(|cut| {
            let begun = secrets.known.iter().filter_map(|known| overlap(cut, &known.text)).max()?;
            Some(&cut[..cut.len() - begun])
        });
        match begun {
            Some(kept) => masked.extend([kept, MASK, ELLIPSIS]),
            None => masked.push_str(part),
        }
    }
    masked
}

/// How many bytes at the end of `text` are the beginning of `secret`. Fewer than four give nothing away.
fn overlap(text: &str, secret: &str) -> Option<usize> {
    let most = text.len().min(secret.len() - 1);
    (4..=most).rev().find(|len| secret.is_char_boundary(*len) && text.ends_with(&secret[..*len]))
}

/// JSON from a handler process, such as an error report, with every text in it cleaned. What is no JSON stays as it is.
pub fn clean_json(payload: &Bytes) -> Bytes {
    let Ok(mut value) = serde_json::from_slice::<Value>(payload) else { return payload.clone() };
    clean_value(&mut value);
    value.to_string().into()
}

fn clean_value(value: &mut Value) {
    match value {
        Value::String(text) => *text = clean(text).into_owned(),
        Value::Array(list) => list.iter_mut().for_each(clean_value),
        Value::Object(map) => map.values_mut().for_each(clean_value),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_every_occurrence_longest_secret_first() {
        add("rp-inner");
        add("rp-inner-and-outer\n");
        add("");
        add("abc");
        assert_eq!(clean("a rp-inner b rp-inner-and-outer c rp-inner"), "a *** b *** c ***");
        assert_eq!(clean("abc stays"), "abc stays");
    }

    #[test]
    fn other_spellings_of_a_secret_are_masked_too() {
        add("pass/word \"1\"+");
        add("-----BEGIN-----\nfirst-line-of-key\nsecond-line-of-key\n");
        assert_eq!(clean(r#"{"p": "pass/word \"1\"+"}"#), r#"{"p": "***"}"#);
        assert_eq!(clean(r#"{\"p\": \"pass/word \\\"1\\\"+\"}"#), r#"{\"p\": \"***\"}"#);
        assert_eq!(clean("u?p=pass%2Fword%20%221%22%2B&q"), "u?p=***&q");
        assert_eq!(clean("x second-line-of-key y"), "x *** y");
    }

    #[test]
    fn a_secret_that_is_cut_off_is_masked() {
        add("cut-off-secret-value");
        assert_eq!(clean("it is cut-off-secr… (9 bytes more)"), "it is ***… (9 bytes more)");
        assert_eq!(clean("a … b cut-off-secret … c cut-off-secret-value…"), "a … b ***… c ***…");
        assert_eq!(clean("it is cut… cut-off-secr"), "it is cut… cut-off-secr");
    }

    #[test]
    fn names_say_what_is_secret() {
        for name in [
            "RUNPOD_AI_API_KEY",
            "HF_TOKEN",
            "AWS_ACCESS_KEY_ID",
            "PGPASSWORD",
            "BUCKET_SECRET_ACCESS_KEY",
            "accessSecret",
            "accessKeyId",
            "api-key",
            "APIKEY",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["TOKENIZERS_CACHE", "SECRET_FILE", "KEYBOARD", "PATH", "RUNPOD_POD_ID", "KEY_ROTATION", "ID", ""] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn variables_are_chosen_by_their_names() {
        let variables = [("MODEL_TOKEN", "tok-of-a-variable"), ("MODEL_PATH", "/models/of-a-variable")];
        add_variables(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(clean("tok-of-a-variable /models/of-a-variable"), "*** /models/of-a-variable");
    }

    #[test]
    fn secrets_of_jobs_are_bounded_and_lasting_ones_stay() {
        let mut secrets = Secrets { known: Vec::new(), clock: 0 };
        secrets.add("lasting-secret", true);
        for number in 0..MAX_OF_JOBS + 10 {
            secrets.add(&format!("secret-of-job-{number}"), false);
            secrets.add("in-every-job", false);
        }
        let has = |text: &str| secrets.known.iter().any(|known| known.text == text);
        assert_eq!(secrets.known.len(), MAX_OF_JOBS + 1);
        assert!(has("lasting-secret") && has("in-every-job") && !has("secret-of-job-5"));
        assert!(has(&format!("secret-of-job-{}", MAX_OF_JOBS + 9)));
        assert!(secrets.known.is_sorted_by(|a, b| a.text.len() >= b.text.len()));
    }

    #[test]
    fn json_stays_json() {
        add("secret-in-json");
        let payload =
            Bytes::from_static(br#"{"kind":"oom","message":"a secret-in-json","list":[{"n":1,"s":"secret-in-json"}]}"#);
        let cleaned: Value = serde_json::from_slice(&clean_json(&payload)).unwrap();
        assert_eq!(cleaned, serde_json::json!({"kind": "oom", "message": "a ***", "list": [{"n": 1, "s": "***"}]}));
        assert_eq!(clean_json(&Bytes::from_static(b"no json")), "no json");
    }
}
