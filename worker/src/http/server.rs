//! The limits of the worker's HTTP servers, and who may call those that answer without a key.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use runpod_http_server::{HttpServer, ServerCounts, ServerLimits, names_this_machine};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::limits::CLOSE_TIMEOUT;

/// The counts of one server, with its name.
pub type NamedCounts = (&'static str, Arc<ServerCounts>);

/// A server with this many connections, or fewer where the process may not open enough files.
pub fn server(name: &'static str, max_connections: usize) -> (HttpServer, NamedCounts) {
    let server = HttpServer::new(name, ServerLimits { max_connections, ..ServerLimits::default() });
    let counts = (name, server.counts());
    (server, counts)
}

/// Serves until `over`. Requests in flight then have a second to end. On a loopback address only programs of this machine are
/// answered.
pub async fn serve(server: HttpServer, listener: TcpListener, router: Router, over: CancellationToken) {
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let router = if is_local { router.layer(from_fn(only_from_here)) } else { router };
    let limit = async {
        over.cancelled().await;
        sleep(CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        () = server.serve(listener, router, &over) => {}
        () = limit => {}
    }
}

/// Refuses what a web page in a browser of this machine may send: a request under another host name reaches a loopback address
/// through DNS rebinding, and any page can send a simple POST.
async fn only_from_here(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if !names_this_machine(&parts) {
        return refuse("the request names another host: use localhost or an IP address");
    }
    if is_from_another_site(&parts.headers) {
        return refuse("requests from web pages are refused: this server has no keys");
    }
    next.run(Request::from_parts(parts, body)).await
}

fn refuse(reason: &str) -> Response {
    (StatusCode::FORBIDDEN, Json(json!({ "error": reason }))).into_response()
}

/// Browsers add these headers; other programs send neither.
fn is_from_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).map(|host| host.as_bytes()).unwrap_or_default();
    origin.as_bytes().strip_prefix(b"http://").is_none_or(|origin| origin != host)
}

#[cfg(test)]
mod tests;
