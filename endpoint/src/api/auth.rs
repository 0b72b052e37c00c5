//! Checks of API keys, and of browser requests where no key is set.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use hmac::{Hmac, Mac};
use runpod_http_server::names_this_machine;
use sha2::Sha256;

use super::cors::Origins;
use super::error::ApiError;
use super::keys::KeySet;
use super::unreadable;
use crate::secret::Secret;
use crate::store::Digest;

/// A browser's statement of how the requesting page relates to this site.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may call one of the two APIs.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keys: KeySet,
    /// Without keys, only requests with a local host name are accepted. A request with another name reaches a loopback address
    /// through DNS rebinding, or through a proxy; the operator allows a proxy with `--insecure-no-auth`.
    pub(crate) local: bool,
    /// Pages of other sites that are accepted without keys all the same.
    pub(crate) origins: Origins,
}

impl Gate {
    /// Admits a request that carries one of the keys, and notes which. With no keys set, cross-origin browser requests are refused.
    pub(crate) fn admit(&self, request: &mut Parts) -> Result<(), ApiError> {
        if self.keys.is_empty() {
            return refuse_foreign(request, self);
        }
        let (number, key) = self.keys.find(given_key(&request.headers)).ok_or(ApiError::Unauthorized)?;
        request.extensions.insert(CallerKey(Some((number, key.clone()))));
        Ok(())
    }
}

/// Passes a request on when the gate admits it.
pub(crate) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    gate.admit(&mut parts)?;
    unreadable::check(&parts.extensions)?;
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// The key that a request came with; none at an API without keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallerKey(Option<(usize, Secret)>);

impl CallerKey {
    /// The key of this request.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Its position in the set.
    pub(crate) fn number(&self) -> usize {
        self.0.as_ref().map_or(0, |(number, _)| *number)
    }

    /// A digest of `text` that only this key produces: what is kept of it tells neither of them.
    pub(crate) fn tag(&self, text: &[u8]) -> Digest {
        let key = self.0.as_ref().map(|(_, key)| key.expose()).unwrap_or_default();
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return Digest::default() };
        mac.update(text);
        mac.finalize().into_bytes().into()
    }

    /// The share of the queue that belongs to this key: a name that stays the same when keys are added or removed.
    pub(crate) fn share(&self) -> Option<Arc<str>> {
        self.0.as_ref()?;
        let [a, b, c, d, e, f, g, h, ..] = self.tag(b"share");
        Some(format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h])).into())
    }
}

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
fn refuse_foreign(request: &Parts, gate: &Gate) -> Result<(), ApiError> {
    let headers = &request.headers;
    let mut origins = headers.get_all(ORIGIN).iter();
    let is_allowed = origins.next().is_some_and(|origin| gate.origins.allow(origin)) && origins.next().is_none();
    let is_other_page = headers.get_all(ORIGIN).iter().any(|origin| !is_own_page(origin, headers.get(HOST)));
    let is_other_site = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    if !is_allowed && (is_other_page || headers.get_all(SEC_FETCH_SITE).iter().any(is_other_site)) {
        return Err(ApiError::ForeignOrigin);
    }
    if gate.local && !names_this_machine(request) { Err(ApiError::ForeignHost) } else { Ok(()) }
}

/// Whether an `Origin` names the host that the request goes to.
fn is_own_page(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin.as_bytes();
    let page = [&b"http://"[..], b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
    page.is_some_and(|page| host.is_some_and(|host| page.eq_ignore_ascii_case(host.as_bytes())))
}
