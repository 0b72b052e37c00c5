//! Which headers pass through.

use std::net::SocketAddr;

use axum::http::header::{
    AUTHORIZATION, CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Names the worker: in a request the one that it asks for, in an answer the one that has answered.
pub(super) const WORKER_ID: HeaderName = HeaderName::from_static("x-runpod-worker-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Whether a request asks for another protocol on its connection.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let names = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(UPGRADE)
        && names.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

/// Removes what concerns one connection only; an upgrade concerns both.
pub(super) fn clean(headers: &mut HeaderMap, keeps_upgrade: bool) {
    let protocol = headers.get(UPGRADE).cloned().filter(|_| keeps_upgrade);
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// The headers of a request for a worker: without the key, which was checked.
pub(super) fn for_worker(headers: &HeaderMap, address: SocketAddr, keeps_upgrade: bool) -> HeaderMap {
    let mut headers = headers.clone();
    clean(&mut headers, keeps_upgrade);
    headers.remove(AUTHORIZATION);
    if !headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(&address.to_string())
    {
        headers.insert(HOST, host);
    }
    headers
}
