//! The names of the levels.

use tracing::level_filters::LevelFilter;

/// Reads a log level: the usual names, the names of RunPod's SDK, in upper or lower case, and Python's numbers.
///
/// # Errors
/// When the text is none of them; the error says what to use.
pub fn parse_level(text: &str) -> Result<LevelFilter, String> {
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
                assert_eq!(parse_level(spelling), Ok(expected), "{spelling}");
            }
        }
        assert!(parse_level("loud").is_err() && parse_level("-1").is_err());
    }
}
