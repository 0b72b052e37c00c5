//! Takes whatever is posted to it: log lines, traces, alerts.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::eventually;

/// One request.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Path.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

#[derive(Debug)]
struct Shared {
    status: StatusCode,
    posted: Vec<Posted>,
}

/// A server that keeps every request.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Receiver {
    /// Starts one.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared { status: StatusCode::OK, posted: Vec::new() }));
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|error| panic!("no port: {error}"));
        let url = listener.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: StatusCode) {
        self.shared.lock().status = status;
    }

    /// Everything so far.
    pub fn posted(&self) -> Vec<Posted> {
        self.shared.lock().posted.clone()
    }

    /// Waits for a JSON body on a path with this end for which `wanted` holds.
    pub async fn gets(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let bodies = |posted: &[Posted]| {
            let here = posted.iter().filter(|one| one.path.ends_with(path));
            here.filter_map(|one| serde_json::from_slice(&one.body).ok()).find(&wanted)
        };
        self.finds(what, bodies).await
    }

    /// Waits until what has come so far answers the question.
    pub async fn finds<T>(&self, what: &str, look: impl Fn(&[Posted]) -> Option<T>) -> T {
        eventually(what, || async { look(&self.posted()) }).await
    }
}

async fn receive(State(shared): State<Arc<Mutex<Shared>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut shared = shared.lock();
    shared.posted.push(Posted { path: uri.path().to_owned(), headers, body });
    shared.status
}
