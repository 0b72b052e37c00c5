//! Methods that a route does not have. HEAD is one of them, because it must have no effect: the router answers it by running GET, and
//! reading here can take a job, take the items of a stream or run a job.

use std::collections::HashMap;

use axum::extract::MatchedPath;
use axum::http::header::ALLOW;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{OpenApi, PathItem};

use super::error::ApiError;
use super::worker;

/// The methods of the routes of one API.
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

    /// Those of the worker API.
    pub(crate) fn of_workers() -> Self {
        let post = |route: &&str| ((*route).to_owned(), HeaderValue::from_static("POST"));
        Self { by_route: worker::POST_ONLY.iter().map(post).collect(), others: HeaderValue::from_static("GET,POST") }
    }

    /// The answer to a HEAD; `None` for every other method.
    pub(crate) fn refusal(&self, request: &Parts) -> Option<Response> {
        (request.method == Method::HEAD).then(|| self.refuse(request.extensions.get::<MatchedPath>()))
    }

    /// The answer to a method that the route does not have. It names those that it has; the router would name HEAD too.
    pub(crate) fn refuse(&self, route: Option<&MatchedPath>) -> Response {
        let allowed = route.and_then(|route| self.by_route.get(route.as_str())).unwrap_or(&self.others);
        ([(ALLOW, allowed.clone())], ApiError::WrongMethod).into_response()
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
