//! The page. It is embedded in the program, so that it works offline and always matches the program's version.

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

use super::state::Console;

/// Allows only the page's own scripts, styles and requests: nothing in a job can run as code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/", page(HTML, include_str!("assets/index.html")))
        .route("/console/console.css", page(CSS, include_str!("assets/console.css")))
        .route("/console/icon.svg", page(SVG, include_str!("assets/icon.svg")))
        .route("/console/main.js", page(JS, include_str!("assets/main.js")))
        .route("/console/api.js", page(JS, include_str!("assets/api.js")))
        .route("/console/batches.js", page(JS, include_str!("assets/batches.js")))
        .route("/console/chart.js", page(JS, include_str!("assets/chart.js")))
        .route("/console/dom.js", page(JS, include_str!("assets/dom.js")))
        .route("/console/form.js", page(JS, include_str!("assets/form.js")))
        .route("/console/history.js", page(JS, include_str!("assets/history.js")))
        .route("/console/job.js", page(JS, include_str!("assets/job.js")))
        .route("/console/overview.js", page(JS, include_str!("assets/overview.js")))
}

fn page(media_type: &'static str, text: &'static str) -> axum::routing::MethodRouter<Console> {
    get(move || async move { (headers(media_type), text).into_response() })
}

fn headers(media_type: &'static str) -> [(HeaderName, &'static str); 6] {
    [
        (CONTENT_TYPE, media_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ]
}

#[cfg(test)]
mod tests {
    /// A proxy may serve the console under a prefix.
    #[test]
    fn the_page_names_its_parts_by_relative_addresses() {
        let page = include_str!("assets/index.html");
        let addresses = ["href=\"", "src=\""].into_iter().flat_map(|name| page.split(name).skip(1));
        let addresses: Vec<&str> = addresses.filter_map(|rest| rest.split('"').next()).collect();
        assert!(addresses.len() > 5, "{addresses:?}");
        assert!(addresses.iter().all(|address| !address.starts_with('/') && !address.contains(':')), "{addresses:?}");
        // Scripts send requests through one function, which adds the prefix.
        let scripts = [
            ("main.js", include_str!("assets/main.js")),
            ("chart.js", include_str!("assets/chart.js")),
            ("dom.js", include_str!("assets/dom.js")),
            ("form.js", include_str!("assets/form.js")),
            ("job.js", include_str!("assets/job.js")),
            ("overview.js", include_str!("assets/overview.js")),
        ];
        for (name, script) in scripts {
            for way_around in ["fetch(", "EventSource(", "XMLHttpRequest", "href: \"/", "src: \"/"] {
                assert!(!script.contains(way_around), "{name} has {way_around}");
            }
        }
    }
}
