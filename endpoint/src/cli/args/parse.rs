//! From the text of a flag to its value. Each error says what is accepted.

use std::ops::RangeInclusive;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::secret::Secret;

#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
pub(super) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::from(text))
}

pub(super) fn hold(text: &str) -> Result<Duration, String> {
    seconds(text, 1..=85, "give 1s to 85s: workers give up after 90s")
}

pub(super) fn lease(text: &str) -> Result<Duration, String> {
    seconds(text, 5..=3600, "give 5s to 1h, at least three heartbeat intervals")
}

pub(super) fn period(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time);
    if fits { Ok(time) } else { Err("give 100ms to 1h".to_owned()) }
}

pub(super) fn batch_retention(text: &str) -> Result<Duration, String> {
    seconds(text, 60..=90 * 24 * 3600, "give 1m to 90d")
}

/// How long webhooks are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookSchedule {
    /// As RunPod does.
    Platform,
    /// For this long.
    For(Duration),
}

pub(super) fn webhook_schedule(text: &str) -> Result<WebhookSchedule, String> {
    const ADVICE: &str = "give 1s to 7d, or `platform`";
    match text {
        "platform" => Ok(WebhookSchedule::Platform),
        _ => seconds(text, 1..=7 * 24 * 3600, ADVICE).map(WebhookSchedule::For),
    }
}

fn seconds(text: &str, range: RangeInclusive<u64>, advice: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = time >= Duration::from_secs(*range.start()) && time <= Duration::from_secs(*range.end());
    if fits { Ok(time) } else { Err(advice.to_owned()) }
}

/// Paths below `/v2/` that RunPod's management API has, and the one by which its apps are called. An endpoint of that name could not be
/// told apart from them.
const RESERVED_IDS: [&str; 12] = [
    "serverless",
    "pods",
    "clusters",
    "catalog",
    "templates",
    "network-volumes",
    "global-volumes",
    "registries",
    "billing",
    "account",
    "openapi.json",
    "flash",
];

pub(crate) fn is_reserved_id(text: &str) -> bool {
    RESERVED_IDS.contains(&text)
}

pub(crate) fn endpoint_id(text: &str) -> Result<String, String> {
    if is_reserved_id(text) {
        return Err("RunPod uses this name for paths of its own: choose another".to_owned());
    }
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 64 letters, digits, - and _".to_owned())
    }
}

pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    runpod_log_line::parse_level(text)
}
