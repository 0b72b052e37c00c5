//! Metrics in the format that the scraper asks for: OpenMetrics, or the older text format of Prometheus.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};

/// A format: its media type, and the versions under which scrapers know it.
struct Format {
    kind: &'static str,
    subtype: &'static str,
    versions: &'static [&'static str],
}

const OPEN_METRICS: Format = Format { kind: "application", subtype: "openmetrics-text", versions: &["1.0.0", "0.0.1"] };
const PLAIN: Format = Format { kind: "text", subtype: "plain", versions: &["0.0.4"] };

/// Answers a scrape with `text`, which is OpenMetrics. A scraper that accepts `text/plain` and not OpenMetrics, or prefers it, gets
/// `text/plain; version=0.0.4`.
#[must_use]
pub fn exposition(request: &HeaderMap, text: String) -> Response {
    let accept: Vec<_> = request.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let vary = (VARY, "accept");
    if prefers_plain(&accept.join(",")) {
        let media_type = (CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
        return ([media_type, vary], plain(&text)).into_response();
    }
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"), vary], text).into_response()
}

/// Equal weights are for OpenMetrics. Whoever accepts neither gets it too: a scraper that does not say what it means is better served
/// with something than with 406.
fn prefers_plain(accept: &str) -> bool {
    weight(accept, &PLAIN) > weight(accept, &OPEN_METRICS)
}

/// How much a format is wanted, from 0 to 1: what the most specific range says that it fits into (RFC 9110, section 12.5.1).
fn weight(accept: &str, format: &Format) -> f32 {
    let mut ranges: Vec<_> = accept.split(',').filter_map(|range| matched(range, format)).collect();
    // Of several that are as specific, the one with the larger weight counts: scrapers list the versions of a format one by one.
    ranges.sort_by(|(one, weight), (other, other_weight)| one.cmp(other).then(weight.total_cmp(other_weight)));
    ranges.last().map_or(0.0, |(_, weight)| *weight)
}

/// How specific a range is that the format fits into, and its weight.
fn matched(range: &str, format: &Format) -> Option<(u8, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let (kind, subtype) = parts.next()?.split_once('/')?;
    let is = |given: &str, own: &str| given.eq_ignore_ascii_case(own);
    let mut specific = match (kind, subtype) {
        ("*", "*") => 0,
        (kind, "*") if is(kind, format.kind) => 1,
        (kind, subtype) if is(kind, format.kind) && is(subtype, format.subtype) => 2,
        _ => return None,
    };
    let mut weight = 1.0;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim() {
            name if is(name, "q") => weight = value.parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
            name if is(name, "version") && !format.versions.contains(&value) => return None,
            name if is(name, "version") => specific = 3,
            _ => {}
        }
    }
    Some((specific, weight))
}

/// OpenMetrics as Prometheus' text format 0.0.4: a counter's name ends in `_total` in its header too, there are no units and no
/// end mark. Neither program writes exemplars, which it does not have either.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Its family's name depends on the type, which follows.
            help = rest.split_once(' ').map(|(_, help)| help);
            continue;
        }
        let family = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        let Some((name, kind)) = family else {
            text.extend([line, "\n"]);
            continue;
        };
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "stateset" => ("", "gauge"),
            "unknown" => ("", "untyped"),
            kind => ("", kind),
        };
        if let Some(help) = help.take() {
            text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
        }
        text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_what_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            (prometheus, false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
            ("text/plain", true),
            ("text/plain;version=0.0.4", true),
            ("Text/Plain; q=0.5, */*; q=0.1", true),
            ("text/plain, application/openmetrics-text; q=0.5", true),
            ("application/openmetrics-text, text/plain", false),
            ("application/openmetrics-text;q=0,*/*", true),
            ("*/*, application/openmetrics-text; q=0.0", true),
            ("text/*", true),
            ("text/*;q=0.5, */*;q=0.4", true),
            ("application/*, text/plain;q=0.9", false),
            ("text/plain;q=0, text/*", false),
            (
                "text/plain;version=0.0.4;q=0.3, text/plain;version=1.0.0;q=0.9, application/openmetrics-text;q=0.5",
                false,
            ),
            ("application/openmetrics-text;version=9.9.9, text/plain;q=0.1", true),
            ("application/openmetrics-text;version=\"1.0.0\";Q=0.2, text/plain;q=0.1", false),
            ("text/plain;q=2, application/openmetrics-text;q=0.1", false),
            ("application/json", false),
        ] {
            assert_eq!(prefers_plain(accept), expected, "{accept}");
        }
    }

    #[test]
    fn the_older_format_has_other_headers_and_the_same_samples() {
        let open_metrics = "\
# HELP jobs Jobs.
# TYPE jobs counter
jobs_total{text=\"a # {b\"} 3
# HELP wait_seconds Wait.
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
wait_seconds_bucket{le=\"+Inf\"} 1
# HELP build Version.
# TYPE build info
build_info{version=\"1\"} 1
# TYPE odd unknown
odd 1
# EOF
";
        let expected = "\
# HELP jobs_total Jobs.
# TYPE jobs_total counter
jobs_total{text=\"a # {b\"} 3
# HELP wait_seconds Wait.
# TYPE wait_seconds histogram
wait_seconds_bucket{le=\"+Inf\"} 1
# HELP build_info Version.
# TYPE build_info gauge
build_info{version=\"1\"} 1
# TYPE odd untyped
odd 1
";
        assert_eq!(plain(open_metrics), expected);
    }
}
