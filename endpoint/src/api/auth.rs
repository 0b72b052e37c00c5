//! API keys and the refusal of foreign web pages.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::keys::KeySet;

/// A key. Never shown by `Debug`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Arc::from(text.trim()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Lets a request through when its key is one of the keys, or when none is set and the request comes from no other web site.
pub(crate) async fn check(State(keys): State<KeySet>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    if keys.is_empty() {
        return if is_foreign(request.headers()) { Err(ApiError::ForeignOrigin) } else { Ok(next.run(request).await) };
    }
    let number = keys.position(given_key(request.headers())).ok_or(ApiError::Unauthorized)?;
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

/// Browsers name the page that sends a request in `Origin`; other programs leave it out.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(ORIGIN) else { return false };
    let page = origin.split_once("://").map(|(_, host)| host);
    page.is_none() || page != text(HOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Some(Secret::from("hunter2"))), "Some([redacted])");
    }
}
