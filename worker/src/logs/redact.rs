//! Masks secret values in log lines, error reports and health documents.
//!
//! Two kinds are masked: values that are known (the key, variables whose names say that they are secret, secret inputs of jobs), and
//! whatever has the form of a secret, such as the signature of a signed URL.
//!
//! Known values that came with jobs are bounded in number (4,096 spellings) and in bytes (1 MiB); the ones that no job has
//! brought for longest are forgotten first. Values from settings and the environment are never forgotten.

mod forms;
mod known;
mod names;

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use self::known::{Index, KnownLimits, KnownSecrets};
pub use self::names::is_secret_name;
use super::limits::{JOB_SECRET_BYTES, JOB_SECRETS, MAX_SECRET_LEN, MIN_SECRET_LEN, RECENT_SECRETS};

/// What stands in place of a secret.
const MASK: &str = "***";
/// What this program and the SDK put where a text was cut.
const ELLIPSIS: &str = "…";
/// What stands unescaped in a URL (RFC 3986).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

const KNOWN_LIMITS: KnownLimits = KnownLimits { values: JOB_SECRETS, bytes: JOB_SECRET_BYTES, recent: RECENT_SECRETS };

static KNOWN: LazyLock<Mutex<KnownSecrets>> = LazyLock::new(Mutex::default);
/// Replaced as a whole, so that whoever masks a text holds the lock only for two reference counts.
static INDEX: LazyLock<RwLock<Index>> = LazyLock::new(RwLock::default);

/// Masks `secret` from now on, in the whole process. Lines of fewer than 8 bytes are ignored.
pub fn add(secret: &str) {
    add_spellings(spellings(secret), true);
}

/// Masks a secret that came with a job, until [too many](self) others have come after it.
pub fn add_of_job(secret: &str) {
    add_spellings(spellings(secret), false);
}

/// As [`add_of_job`], for all the secrets of a job at once, which costs less.
pub fn add_all_of_job<'s>(secrets: impl IntoIterator<Item = &'s str>) {
    add_spellings(secrets.into_iter().flat_map(spellings).collect(), false);
}

/// Masks the values of variables whose names say that they are secret.
pub fn add_variables(variables: impl Iterator<Item = (String, String)>) {
    let values = variables.filter(|(name, _)| is_secret_name(name)).flat_map(|(_, value)| spellings(&value));
    add_spellings(values.collect(), true);
}

fn add_spellings(values: Vec<String>, lasting: bool) {
    if values.is_empty() {
        return;
    }
    let mut known = KNOWN.lock();
    // Under the lock, so that of two new indices the later one stays.
    if let Some(index) = known.add(values, lasting, KNOWN_LIMITS) {
        *INDEX.write() = index;
    }
}

/// The ways in which a secret may be written: line by line; quoted as in JSON or by `{:?}`; such a text quoted once more;
/// escaped as in a URL.
fn spellings(secret: &str) -> Vec<String> {
    let quoted = |text: &str| {
        let text = Value::from(text).to_string();
        text[1..text.len() - 1].to_owned()
    };
    let mut spellings = Vec::new();
    for line in secret.lines().map(str::trim).filter(|line| line.len() >= MIN_SECRET_LEN) {
        let line = &line[..line.floor_char_boundary(MAX_SECRET_LEN)];
        let once = quoted(line);
        for form in [line.to_owned(), quoted(&once), once, utf8_percent_encode(line, IN_URL).to_string()] {
            if !spellings.contains(&form) {
                spellings.push(form);
            }
        }
    }
    spellings
}

/// `text` with every secret replaced by `***`, and every beginning of one before an ellipsis: what was cut off there could
/// not be recognized otherwise.
pub fn clean(text: &str) -> Cow<'_, str> {
    let index = INDEX.read().clone();
    let mut cleaned = mask_known(text, &index);
    if cleaned.contains(ELLIPSIS) {
        cleaned = Cow::Owned(mask_beginnings(&cleaned, &index));
    }
    match forms::mask(&cleaned) {
        Cow::Borrowed(_) => cleaned,
        Cow::Owned(masked) => Cow::Owned(masked),
    }
}

fn mask_known<'t>(text: &'t str, index: &Index) -> Cow<'t, str> {
    let found = index.find(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut masked = String::with_capacity(text.len());
    let mut from = 0;
    for secret in found {
        masked.push_str(&text[from..secret.start]);
        masked.push_str(MASK);
        from = secret.end;
    }
    masked.push_str(&text[from..]);
    Cow::Owned(masked)
}

fn mask_beginnings(text: &str, index: &Index) -> String {
    let mut masked = String::with_capacity(text.len());
    for part in text.split_inclusive(ELLIPSIS) {
        let cut = part.strip_suffix(ELLIPSIS).map(|part| part.trim_end().trim_end_matches(char::REPLACEMENT_CHARACTER));
        match cut.and_then(|cut| Some(&cut[..cut.len() - index.beginning_at_end(cut)?])) {
            Some(kept) => masked.extend([kept, MASK, ELLIPSIS]),
            None => masked.push_str(part),
        }
    }
    masked
}

/// JSON from a handler process, such as an error report, with every text in it cleaned. Anything else stays as it is.
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
mod tests;
