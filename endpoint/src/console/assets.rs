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

/// The scripts, below `/console/`.
const SCRIPTS: [(&str, &str); 9] = [
    ("main.js", include_str!("assets/main.js")),
    ("api.js", include_str!("assets/api.js")),
    ("batches.js", include_str!("assets/batches.js")),
    ("chart.js", include_str!("assets/chart.js")),
    ("dom.js", include_str!("assets/dom.js")),
    ("form.js", include_str!("assets/form.js")),
    ("history.js", include_str!("assets/history.js")),
    ("job.js", include_str!("assets/job.js")),
    ("overview.js", include_str!("assets/overview.js")),
];

pub(super) fn routes() -> Router<Console> {
    let page = Router::new()
        .route("/", asset(HTML, include_str!("assets/index.html")))
        .route("/console/console.css", asset(CSS, include_str!("assets/console.css")))
        .route("/console/icon.svg", asset(SVG, include_str!("assets/icon.svg")));
    SCRIPTS.iter().fold(page, |routes, (name, text)| routes.route(&format!("/console/{name}"), asset(JS, text)))
}

fn asset(media_type: &'static str, text: &'static str) -> axum::routing::MethodRouter<Console> {
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
    use super::SCRIPTS;

    /// A proxy may serve the console under a prefix.
    #[test]
    fn the_page_names_its_parts_by_relative_addresses() {
        let page = include_str!("assets/index.html");
        let addresses = ["href=\"", "src=\""].into_iter().flat_map(|name| page.split(name).skip(1));
        let addresses: Vec<&str> = addresses.filter_map(|rest| rest.split('"').next()).collect();
        assert!(addresses.len() > 5, "{addresses:?}");
        assert!(addresses.iter().all(|address| !address.starts_with('/') && !address.contains(':')), "{addresses:?}");
        // Scripts send requests through the functions of api.js, which add the prefix.
        for (name, script) in SCRIPTS.iter().filter(|(name, _)| *name != "api.js") {
            for way_around in ["fetch(", "EventSource(", "XMLHttpRequest", "href: \"/", "src: \"/"] {
                assert!(!script.contains(way_around), "{name} has {way_around}");
            }
        }
    }
}
