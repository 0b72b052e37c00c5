//! HEAD, which must have no effect. The router answers it by running GET, and reading here can take a job, take the items of a stream or
//! run a job: both APIs refuse it.

use std::collections::HashMap;

use axum::extract::MatchedPath;
use axum::http::header::ALLOW;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{OpenApi, PathItem};

use super::error::ApiError;

/// The methods of the routes that have GET.
pub(crate) struct Methods {
    by_route: HashMap<String, HeaderValue>,
    others: HeaderValue,
}

impl Methods {
    /// The documented ones; a route that is not documented has only GET.
    pub(crate) fn documented(document: &OpenApi) -> Self {
        let by_route = document.paths.paths.iter().filter_map(|(route, item)| Some((route.clone(), allowed(item)?)));
        Self { by_route: by_route.collect(), others: HeaderValue::from_static("GET") }
    }

    /// Those of the worker API: each of its routes that has GET has POST too.
    pub(crate) fn of_workers() -> Self {
        Self { by_route: HashMap::new(), others: HeaderValue::from_static("GET,POST") }
    }

    /// The answer to a HEAD; `None` for every other method.
    pub(crate) fn refusal(&self, request: &Parts) -> Option<Response> {
        if request.method != Method::HEAD {
            return None;
        }
        let route = request.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let allowed = route.and_then(|route| self.by_route.get(route)).unwrap_or(&self.others);
        Some(([(ALLOW, allowed.clone())], ApiError::WrongMethod).into_response())
    }
}

fn allowed(item: &PathItem) -> Option<HeaderValue> {
    let methods = [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    let names: Vec<_> = methods.into_iter().filter_map(|(name, method)| method.as_ref().map(|_| name)).collect();
    HeaderValue::from_str(&names.join(",")).ok()
}
