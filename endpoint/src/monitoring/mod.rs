//! `/metrics`, `/ready`, `/live` and `/ping` of the server itself: for Prometheus, load balancers and container platforms.
//! These routes need no key: they show nothing about single jobs.

mod collector;
mod labels;
mod metrics;
mod probes;
mod requests;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use requests::STATUS_CLASSES;
pub use state::Monitoring;

/// Content type of `/metrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Monitoring {
    /// Adds the routes of this module and counts the requests to all of them.
    pub fn watch(self, router: Router) -> Router {
        let metrics = Arc::clone(&self.metrics);
        let own = Router::new()
            .route("/metrics", get(scrape))
            .route("/ready", get(probes::ready))
            .route("/live", get(probes::live))
            .route("/ping", get(probes::ready))
            .with_state(self);
        router.merge(own).layer(from_fn_with_state(metrics, requests::count))
    }
}

async fn scrape(State(monitoring): State<Monitoring>) -> Response {
    match monitoring.metrics.scrape(&*monitoring.store).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
