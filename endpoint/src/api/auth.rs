//! Checks of API keys, and of browser requests where no key is set.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;
use super::keys::KeySet;

/// A browser's statement of how the requesting page relates to this site.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may call one of the two APIs.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keys: KeySet,
    /// Without keys, only requests with a local host name are accepted. A request with another name reaches a loopback address
    /// through DNS rebinding, or through a proxy; the operator allows a proxy with `--insecure-no-auth`.
    pub(crate) local: bool,
}

/// Passes a request on when it carries one of the keys. With no keys set, cross-origin browser requests are refused.
pub(crate) async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    if gate.keys.is_empty() {
        refuse_foreign(request.headers(), gate.local)?;
        return Ok(next.run(request).await);
    }
    let number = gate.keys.position(given_key(request.headers())).ok_or(ApiError::Unauthorized)?;
    request.extensions_mut().insert(KeyNumber(number));
    Ok(next.run(request).await)
}

/// The position of the request's key in the set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyNumber(pub(crate) usize);

/// Workers send the bare key, clients `Bearer <key>`; both forms are accepted everywhere.
fn given_key(headers: &HeaderMap) -> &str {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
        _ => value,
    }
}

/// Refuses cross-origin browser requests. Browsers send `Origin` or `Sec-Fetch-Site`, other programs send neither: `Origin` is
/// missing when a page loads an image, `Sec-Fetch-Site` in old browsers. After DNS rebinding, when a foreign name resolves to
/// this machine, both look like our own; only the host name differs.
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
