//! Metrics in the format that the scraper asks for: OpenMetrics, or the older text format of Prometheus.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};

const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain";

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

fn prefers_plain(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let weights = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_wanted = parts.next()?.eq_ignore_ascii_case(wanted);
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f32>().ok());
            is_wanted.then(|| weight.unwrap_or(1.0))
        });
        weights.fold(0.0, f32::max)
    };
    weight(PLAIN) > weight(OPEN_METRICS)
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
