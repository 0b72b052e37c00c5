//! An endpoint without a socket, and short names for what its two kinds of callers do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use runpod_endpoint::api::{App, AppState, Keys, Options, router, with_common_layer};
use runpod_endpoint::store::{Limits, MemoryStore, Store};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long worker polls are held in tests.
pub(crate) const HOLD: Duration = Duration::from_secs(25);

/// A limit for whatever must happen in real time.
pub(crate) const SOON: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) app: App,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn field(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.text)).to_owned()
    }
}

impl Api {
    pub(crate) fn new() -> Self {
        Self::with(Keys::default())
    }

    pub(crate) fn with(keys: Keys) -> Self {
        Self::build(keys, Options::default(), MemoryStore::new(Limits::default()))
    }

    pub(crate) fn with_options(options: Options) -> Self {
        Self::build(Keys::default(), options, MemoryStore::new(Limits::default()))
    }

    pub(crate) fn build(keys: Keys, options: Options, store: impl Store) -> Self {
        let app = App::from(AppState {
            store: Arc::new(store),
            hold: HOLD,
            max_result_bytes: 1 << 20,
            request_memory: runpod_http_server::Budget::new(64 << 20),
            drain: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            options: Arc::new(options),
        });
        Self { router: with_common_layer(router(app.clone(), keys)), app }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap();
        if !text.is_empty() {
            assert_eq!(headers["content-type"], "application/json", "{text}");
        }
        Reply { status, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(format!("/v2/ep/{path}")).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(Request::post(format!("/v2/ep/{path}")).body(body.into()).unwrap()).await
    }

    /// Submits a job; its id.
    pub(crate) async fn run(&self, body: &str) -> String {
        let reply = self.post("run", body.to_owned()).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        reply.field("id")
    }

    /// The next job for a worker; its id. Empty when there is none.
    pub(crate) async fn take(&self, worker: &str) -> String {
        let reply = self.get(&format!("job-take/{worker}?gpu=LOCAL&job_in_progress=0")).await;
        if reply.status == StatusCode::NO_CONTENT { String::new() } else { reply.field("id") }
    }

    /// Reports a result.
    pub(crate) async fn done(&self, worker: &str, job: &str, body: &str) -> Reply {
        self.post(&format!("job-done/{worker}/{job}?gpu=LOCAL&isStream=false"), body.to_owned()).await
    }

    pub(crate) async fn ping(&self, worker: &str, jobs: &str) -> Reply {
        self.get(&format!("ping/{worker}?gpu=LOCAL&job_id={jobs}&runpod_version=1.12.0")).await
    }

    pub(crate) async fn status(&self, job: &str) -> Value {
        self.get(&format!("status/{job}")).await.json()
    }

    pub(crate) async fn state(&self, job: &str) -> String {
        self.get(&format!("status/{job}")).await.field("status")
    }
}
