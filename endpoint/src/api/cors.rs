//! Which web pages of other sites may use the client API (`--cors-allow-origin`). None may, unless the operator names them.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue};
use reqwest::Url;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, Any, CorsLayer};

/// Whether the official OpenAI clients repeat a request, whatever the status is.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// How long a browser may remember what is allowed.
const REMEMBERED: Duration = Duration::from_secs(600);

/// A web page's origin, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ADVICE: &str =
            "give an origin as a browser sends it, such as https://app.example.org or http://localhost:3000, or *";
        let text = text.trim().to_ascii_lowercase();
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        if text != "*" && !host.is_some_and(|host| !host.is_empty() && host.chars().all(fits)) {
            return Err(ADVICE);
        }
        if text == "*" {
            return Ok(Self(HeaderValue::from_static("*")));
        }
        // As browsers write it: without a path, and without the port that the scheme has anyway.
        let origin = Url::parse(&text).map_err(|_| ADVICE)?.origin().ascii_serialization();
        HeaderValue::from_str(&origin).map(Self).map_err(|_| ADVICE)
    }
}

impl Origin {
    /// Whether it stands for all.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

/// The origins whose pages may use the client API.
#[derive(Debug, Clone, Default)]
pub struct Origins(Arc<[Origin]>);

impl Origins {
    /// These origins.
    pub fn new(origins: impl IntoIterator<Item = Origin>) -> Self {
        Self(origins.into_iter().collect())
    }

    /// Whether a page of this origin may use the client API.
    pub(crate) fn allow(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|allowed| allowed.is_any() || allowed.0 == *origin)
    }

    /// Tells browsers about it; `None` when there is nothing to tell.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        let layer = CorsLayer::new()
            // Each route refuses the methods that it does not have.
            .allow_methods(AllowMethods::mirror_request())
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([RETRY_AFTER, SHOULD_RETRY])
            .allow_private_network(true)
            .max_age(REMEMBERED);
        if self.0.is_empty() {
            return None;
        }
        if self.0.iter().any(Origin::is_any) {
            return Some(layer.allow_origin(Any));
        }
        Some(layer.allow_origin(AllowOrigin::list(self.0.iter().map(|origin| origin.0.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_no_path() {
        for good in
            ["https://app.example.org", "http://localhost:3000", "http://[::1]:3000", "*", "HTTPS://App.example.org"]
        {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "app.example.org",
            "https://",
            "https://a/",
            "https://a/b",
            "ftp://a",
            "null",
            "https://*.a",
            "https://a b",
            "https://a:99999",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_compared_as_browsers_write_it() {
        for (given, sent) in [
            ("https://a.org:443", "https://a.org"),
            ("http://a.org:80", "http://a.org"),
            ("https://a.org:80", "https://a.org:80"),
            ("HTTPS://A.org:8443", "https://a.org:8443"),
            ("https://a.org:", "https://a.org"),
            ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
        ] {
            let origins = Origins::new([given.parse().unwrap()]);
            assert!(origins.allow(&HeaderValue::from_static(sent)), "{given} is {sent}");
        }
    }

    #[test]
    fn only_named_origins_are_allowed() {
        let origins = Origins::new(["https://a.org".parse().unwrap()]);
        let allow = |origin| origins.allow(&HeaderValue::from_static(origin));
        assert!(allow("https://a.org"));
        assert!(!allow("https://a.org.evil.org") && !allow("http://a.org") && !allow("null"));
        assert!(Origins::new(["*".parse().unwrap()]).allow(&HeaderValue::from_static("null")));
        assert!(
            !Origins::default().allow(&HeaderValue::from_static("https://a.org"))
                && Origins::default().layer().is_none()
        );
    }
}
