//! API keys and the refusal of foreign web pages.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;
use super::keys::KeySet;

/// How a browser's request relates to the site that it goes to.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who is let in by one of the two APIs.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keys: KeySet,
    /// Only local names are answered to: on a loopback address no browser gets by another one unless it was lured, or a
    /// proxy stands before it, which the operator has to say.
    pub(crate) local: bool,
}

/// Lets a request through when its key is one of the keys, or when none is set and it comes from no page of another site.
pub(crate) async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    if gate.keys.is_empty() {
        refuse_foreign(request.headers(), gate.local)?;
        return Ok(next.run(request).await);
    }
    let number = gate.keys.position(given_key(request.headers())).ok_or(ApiError::Unauthorized)?;
    request.extensions_mut().insert(KeyNumber(number));
    Ok(next.run(request).await)
}

/// Which of several keys a request came with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyNumber(pub(crate) usize);

/// Workers send the bare key, clients `Bearer <key>`; both are taken everywhere.
fn given_key(headers: &HeaderMap) -> &str {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
        _ => value,
    }
}

/// What browsers say about the page that sends a request; other programs say nothing of it. `Origin` is missing where a page
/// asks for an image, `Sec-Fetch-Site` in old browsers. A name that its owner points at this machine makes any page look like
/// one of our own, but for the name.
fn refuse_foreign(headers: &HeaderMap, local: bool) -> Result<(), ApiError> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(&HOST);
    let is_other_page = text(&ORIGIN).is_some_and(|origin| {
        let page = origin.split_once("://").map(|(_, page)| page);
        page.is_none() || page != host
    });
    if is_other_page || matches!(text(&SEC_FETCH_SITE), Some("cross-site" | "same-site")) {
        return Err(ApiError::ForeignOrigin);
    }
    match host {
        Some(host) if local && !is_local_name(host) => Err(ApiError::ForeignHost),
        _ => Ok(()),
    }
}

/// Whether the value of a `Host` header is an address or a name that always means the caller's own machine.
fn is_local_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let label = name.rsplit('.').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok() || label.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_local() {
        for local in
            ["127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.2", "localhost", "LOCALHOST:80", "ep.localhost:1"]
        {
            assert!(is_local_name(local), "{local}");
        }
        for other in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
