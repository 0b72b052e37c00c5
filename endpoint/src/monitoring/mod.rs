//! `/metrics`, `/ready`, `/live` and `/ping` of the server itself: for Prometheus, load balancers and container platforms.
//! These routes need no key: they show nothing about single jobs.

mod collector;
mod labels;
mod metrics;
mod probes;
mod requests;
mod series;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use runpod_http_server::exposition;

pub use labels::STATUS_CLASSES;
pub use state::Monitoring;

impl Monitoring {
    /// Adds the routes of this module and counts the requests to all of them.
    pub fn watch(self, router: Router) -> Router {
        let metrics = Arc::clone(&self.metrics);
        metrics.expect_requests(requests::none());
        let own = Router::new()
            .route("/metrics", get(scrape))
            .route("/ready", get(probes::ready))
            .route("/live", get(probes::live))
            .route("/ping", get(probes::ready))
            .with_state(self);
        router.merge(own).layer(from_fn_with_state(metrics, requests::count))
    }
}

async fn scrape(State(monitoring): State<Monitoring>, headers: HeaderMap) -> Response {
    match monitoring.metrics.scrape(&*monitoring.store).await {
        Ok(text) => exposition(&headers, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
