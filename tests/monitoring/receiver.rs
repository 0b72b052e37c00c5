//! Somebody who is told: notes every JSON body that is posted.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use end_to_end_tests::eventually;
use serde_json::Value;

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// Listens until the test's runtime ends.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    seen: Seen,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let seen = Seen::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(note).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    /// Waits for a body on a path with this end for which `wanted` holds.
    pub(crate) async fn gets(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = || async {
            let seen = self.seen.lock().unwrap();
            seen.iter().find(|(at, body)| at.ends_with(path) && wanted(body)).map(|(_, body)| body.clone())
        };
        eventually(what, look).await
    }
}

async fn note(State(seen): State<Seen>, uri: Uri, body: String) {
    let body = serde_json::from_str(&body).unwrap_or_else(|error| panic!("no JSON: {error}: {body}"));
    seen.lock().unwrap().push((uri.path().to_owned(), body));
}
