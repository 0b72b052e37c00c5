//! Parsers for values. Each error names what is accepted.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Longest duration of a setting. It keeps time arithmetic from overflowing.
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

/// An absolute path of a folder, or `none`. A relative one would depend on where the program was started.
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

/// A number of bytes with or without a unit: `1000000`, `512MiB`, `20GB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("b", 1),
    ];
    let lower = text.to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, *bytes)));
    let (number, bytes) = unit.unwrap_or((&lower, 1));
    let size = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(bytes));
    size.filter(|size| *size > 0).ok_or_else(|| "use a size over zero, such as 512MiB, 20GiB or 1000000".to_owned())
}

/// A decimal number in a range.
pub(super) fn decimal(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("use a number from {least} to {most}")),
    }
}

/// True or false.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}

/// A version of two numbers, such as `11.8`.
pub(super) fn version(text: &str) -> Result<(u32, u32), String> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => Err("use a version such as 12.4".to_owned()),
    }
}

/// A host and a port, such as `1.1.1.1:443`, `[::1]:53` or `example.com:443`.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if good { Ok(text.to_owned()) } else { Err("use a host and a port, such as example.com:443".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn sizes_have_units_or_none() {
        for (text, bytes) in [("7", 7), ("7b", 7), ("2KiB", 2048), ("3 GiB", 3 << 30), ("5GB", 5_000_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "1.5GiB", "GiB", "1PiB", "99999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn small_things_are_read_strictly() {
        assert_eq!((version("12.4"), version("12")), (Ok((12, 4)), Ok((12, 0))));
        assert!(version("12.4.1").is_err() && version("new").is_err());
        assert_eq!((decimal("0.5", 0.0, 1.0), boolean("Yes")), (Ok(0.5), Ok(true)));
        assert!(decimal("2", 0.0, 1.0).is_err() && decimal("NaN", 0.0, 1.0).is_err() && boolean("on").is_err());
        assert!(host_and_port("[::1]:53").is_ok() && host_and_port("a:b").is_err() && host_and_port(":1").is_err());
    }

    #[test]
    fn addresses_have_a_port_or_are_none() {
        assert_eq!(bind("None"), Ok(None));
        assert_eq!(bind("[::]:9"), Ok(Some("[::]:9".parse().unwrap())));
        assert!(bind("8001").is_err() && bind("localhost:8001").is_err());
    }
}
