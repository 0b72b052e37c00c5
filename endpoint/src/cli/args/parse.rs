//! From the text of a flag to its value. Each error says what is accepted.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::api::{is_reserved_id, limits};
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

pub(super) fn retention(text: &str) -> Result<Duration, String> {
    seconds(text, 10..=365 * 24 * 3600, "give 10s to 365d")
}

pub(super) fn period(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time);
    if fits { Ok(time) } else { Err("give 100ms to 1h".to_owned()) }
}

pub(super) fn idle_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0..=7 * 24 * 3600, "give at most 7d")
}

pub(super) fn stop_grace(text: &str) -> Result<Duration, String> {
    seconds(text, 0..=24 * 3600, "give at most 1d")
}

pub(super) fn batch_retention(text: &str) -> Result<Duration, String> {
    seconds(text, 60..=90 * 24 * 3600, "give 1m to 90d")
}

pub(super) fn batch_name(text: &str) -> Result<String, String> {
    let limit = limits::BATCH_NAME;
    if text.chars().count() <= limit { Ok(text.to_owned()) } else { Err(format!("give at most {limit} characters")) }
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

/// The base URL of an endpoint. Without a scheme it is that of a server nearby, or of one on the internet if it is a name without a port;
/// without a path it is the endpoint that `dev` and `serve` have by default.
pub(super) fn endpoint_url(text: &str) -> Result<String, String> {
    const ADVICE: &str = "give a URL such as http://127.0.0.1:8000/v2/local or https://api.runpod.ai/v2/ENDPOINT_ID";
    let bare = text.trim().trim_end_matches('/');
    let scheme = if is_nearby(bare) { "http" } else { "https" };
    let text = if text.contains("://") { bare.to_owned() } else { format!("{scheme}://{bare}") };
    let url = reqwest::Url::parse(&text).map_err(|error| format!("{error}; {ADVICE}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err(ADVICE.to_owned());
    }
    // What was given stays as it is otherwise: a path may be that of a proxy.
    Ok(match text.rsplit_once("/v2") {
        _ if url.path() == "/" => format!("{text}/v2/local"),
        // The address that RunPod's clients take.
        Some((_, "")) => format!("{text}/local"),
        // The address of an operation, copied as a whole.
        Some((base, rest)) => match rest.strip_prefix('/').and_then(|rest| rest.split_once('/')) {
            Some((id, operation)) if is_operation(operation) => format!("{base}/v2/{id}"),
            _ => text,
        },
        None => text,
    })
}

/// Whether the path below an endpoint is that of one of the client API's operations.
fn is_operation(path: &str) -> bool {
    const OPERATIONS: [&str; 15] = [
        "batch",
        "cancel",
        "failed",
        "health",
        "openai",
        "purge-queue",
        "requests",
        "retry",
        "retry-failed",
        "run",
        "runsync",
        "status",
        "status-sync",
        "stream",
        "webhooks",
    ];
    OPERATIONS.contains(&path.split('/').next().unwrap_or_default())
}

/// Whether a URL has the form of those of RunPod's endpoints. A proxy may serve one under another.
pub(crate) fn is_endpoint_url(url: &str) -> bool {
    url.rsplit_once("/v2/").is_some_and(|(_, id)| !id.is_empty() && !id.contains('/'))
}

/// Whether a host without a scheme has a port or is this machine's or an address: a key must not go through the internet unencrypted.
fn is_nearby(bare: &str) -> bool {
    let host = bare.split('/').next().unwrap_or_default();
    let is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    is_address || host.contains(':') || host == "localhost" || host.ends_with(".localhost")
}

pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    runpod_log_line::parse_level(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_named_with_or_without_scheme_and_path() {
        for (given, url) in [
            ("127.0.0.1:8000", "http://127.0.0.1:8000/v2/local"),
            ("localhost:8000/", "http://localhost:8000/v2/local"),
            ("localhost", "http://localhost/v2/local"),
            ("[::1]:8000/v2/images", "http://[::1]:8000/v2/images"),
            ("gpu-box.lan:8000/v2/images/", "http://gpu-box.lan:8000/v2/images"),
            ("10.0.0.7/v2/images", "http://10.0.0.7/v2/images"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v2/local"),
            ("http://127.0.0.1:8000/v2/local", "http://127.0.0.1:8000/v2/local"),
            ("api.runpod.ai/v2/abc", "https://api.runpod.ai/v2/abc"),
            ("https://api.runpod.ai/v2/abc", "https://api.runpod.ai/v2/abc"),
            ("http://127.0.0.1:8000/v2", "http://127.0.0.1:8000/v2/local"),
            ("http://127.0.0.1:8000/v2/", "http://127.0.0.1:8000/v2/local"),
            ("http://127.0.0.1:8000/v2/images/openai/v1", "http://127.0.0.1:8000/v2/images"),
            ("https://api.runpod.ai/v2/abc/runsync", "https://api.runpod.ai/v2/abc"),
            ("https://box.lan/gpu/v2/images/status/job-1", "https://box.lan/gpu/v2/images"),
            ("https://box.lan/images", "https://box.lan/images"),
            ("https://box.lan/v2/images/eu", "https://box.lan/v2/images/eu"),
            ("https://box.lan/v2x/images", "https://box.lan/v2x/images"),
        ] {
            assert_eq!(endpoint_url(given).as_deref(), Ok(url), "{given}");
        }
        assert!(is_endpoint_url("https://box.lan/gpu/v2/images"));
        for other in
            ["https://box.lan/images", "https://box.lan/v2/images/eu", "https://box.lan/v2/", "https://v2.lan/a"]
        {
            assert!(!is_endpoint_url(other), "{other}");
        }
        for bad in ["", "http://", "ftp://host/v2/a", "host:port", "http://host/v2/a?b=c"] {
            let error = endpoint_url(bad).unwrap_err();
            assert!(error.contains("/v2/local"), "{bad}: {error}");
        }
    }
}
