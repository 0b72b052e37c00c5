//! From text to values. Each error says what is accepted.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

/// No wait of this program is longer: it keeps time arithmetic far from its ends.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A whole number in a range.
pub(super) fn number<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!("use a whole number from {} to {}", range.start(), range.end())),
    }
}

/// A duration with a unit; zero is allowed.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(value) if value <= LONGEST => Ok(value),
        Ok(_) => Err(format!("use at most {}", humantime::format_duration(LONGEST))),
        Err(_) => Err("use a duration with a unit, such as 500ms, 30s or 5m".to_owned()),
    }
}

/// A duration over zero.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    if value.is_zero() { Err("use a duration over zero, such as 30s or 5m".to_owned()) } else { Ok(value) }
}

/// As [`timeout`]; a bare number counts as seconds, which is how the platform writes it.
pub(super) fn timeout_in_seconds(text: &str) -> Result<Duration, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { timeout(&format!("{text}s")) } else { timeout(text) }
}

/// An address to listen on, or `none`.
pub(super) fn bind(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| "use an address with a port, such as 127.0.0.1:8001 or 0.0.0.0:8001, or none".to_owned())
}

/// A folder, or `none`. It must not depend on where the program was started.
pub(super) fn folder(text: &str) -> Result<Option<PathBuf>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(Some(path)) } else { Err("use an absolute path, or none".to_owned()) }
}

/// One of a few words.
pub(super) fn word(text: &str, words: &[&str]) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if words.contains(&text.as_str()) { Ok(text) } else { Err(format!("use {}", words.join(", "))) }
}

/// A log level: the names of RunPod's SDK in any case, the usual names elsewhere, and Python's numbers.
pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    if let Ok(number) = text.parse::<u32>() {
        return Ok(match number {
            0 => LevelFilter::OFF,
            1..10 => LevelFilter::TRACE,
            10..20 => LevelFilter::DEBUG,
            20..30 => LevelFilter::INFO,
            30..40 => LevelFilter::WARN,
            40.. => LevelFilter::ERROR,
        });
    }
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(LevelFilter::TRACE),
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "error" | "critical" | "fatal" => Ok(LevelFilter::ERROR),
        "off" | "notset" => Ok(LevelFilter::OFF),
        _ => Err("use trace, debug, info, warn, error or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_many_spellings() {
        for (expected, spellings) in [
            (LevelFilter::TRACE, &["trace", "TRACE", "5"][..]),
            (LevelFilter::DEBUG, &["Debug", "10"]),
            (LevelFilter::INFO, &["INFO", "20", "25"]),
            (LevelFilter::WARN, &["WARN", "warning", "30"]),
            (LevelFilter::ERROR, &["error", "CRITICAL", "40", "50"]),
            (LevelFilter::OFF, &["NOTSET", "off", "0"]),
        ] {
            for spelling in spellings {
                assert_eq!(level(spelling), Ok(expected), "{spelling}");
            }
        }
        assert!(level("loud").is_err() && level("-1").is_err());
    }

    #[test]
    fn durations_need_a_unit_and_have_a_limit() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("30").is_err() && duration("-3s").is_err() && duration("40d").is_err());
        assert!(timeout("0s").is_err());
        assert_eq!(timeout_in_seconds("800"), Ok(Duration::from_secs(800)));
        assert_eq!(timeout_in_seconds("13m"), timeout("13m"));
        assert!(timeout_in_seconds("0").is_err() && timeout_in_seconds("").is_err());
    }

    #[test]
    fn addresses_have_a_port_or_are_none() {
        assert_eq!(bind("None"), Ok(None));
        assert_eq!(bind("[::]:9"), Ok(Some("[::]:9".parse().unwrap())));
        assert!(bind("8001").is_err() && bind("localhost:8001").is_err());
    }
}
