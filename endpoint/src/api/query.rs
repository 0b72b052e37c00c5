//! Path segments and query strings, including those that the official worker glues together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::error::ApiError;
use super::limits;
use crate::store::{ANONYMOUS, storable};

/// The placeholder that RunPod's app runtime leaves in the URL of job-take.
const ID: &str = "$ID";

/// The query as a type that serde reads. A mistake in it has the form of every other error.
#[derive(Debug)]
pub(crate) struct ReadQuery<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ReadQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error| ApiError::BadRequest(error.body_text()))
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Entries to leave out.
    #[param(required = false, minimum = 0)]
    pub(crate) offset: usize,
    /// Longest list; 50 if it is not given, and at most 1000.
    #[param(required = false, minimum = 1)]
    pub(crate) limit: usize,
}

impl PageQuery {
    /// Whether the list goes on after a page with so many entries.
    pub(crate) fn has_more(&self, entries: usize, total: usize) -> bool {
        self.offset.saturating_add(entries) < total && entries > 0
    }
}

/// Query parameters, as they can be looked for in every store; of repeated names the last one counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Params(HashMap<String, Arc<str>>);

impl Params {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let mut params = Self::default();
        params.add(query.unwrap_or_default());
        params
    }

    fn add(&mut self, query: &str) {
        let pairs = form_urlencoded::parse(query.as_bytes());
        self.0.extend(pairs.map(|(name, value)| (name.into_owned(), storable(&value))));
    }

    /// The official worker appends `&name=value` to URLs that have no `?`, so that the parameters end up in the last
    /// path segment: `w1&job_in_progress=0`. Returns the segment proper.
    pub(crate) fn split_segment<'a>(&mut self, segment: &'a str) -> &'a str {
        let Some((name, glued)) = segment.split_once('&') else { return segment };
        self.add(glued);
        name
    }

    /// The worker that a path segment names. RunPod's URLs have placeholders in its place, and each of its runtimes leaves another one
    /// as it is.
    pub(crate) fn worker<'a>(&mut self, segment: &'a str) -> &'a str {
        match self.split_segment(segment) {
            ID => ANONYMOUS,
            worker => worker,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Part of a list.
    pub(crate) fn page(&self) -> Result<PageQuery, ApiError> {
        let number = |name: &str, default: usize| match self.get(name).map(str::parse::<usize>) {
            None => Ok(default),
            Some(Ok(number)) => Ok(number),
            Some(Err(_)) => Err(ApiError::BadRequest(format!("`{name}` must be a whole number from 0"))),
        };
        let limit = number("limit", limits::PAGE)?;
        if limit == 0 {
            return Err(ApiError::BadRequest(format!("`limit` must be 1 to {}", limits::MAX_PAGE)));
        }
        Ok(PageQuery { offset: number("offset", 0)?, limit: limit.min(limits::MAX_PAGE) })
    }

    /// `wait`, in the range that RunPod documents.
    ///
    /// # Errors
    /// When it is no number of milliseconds, or outside of that range.
    pub(crate) fn wait(&self, default: Duration) -> Result<Duration, ApiError> {
        let (min, max) = (limits::MIN_WAIT, limits::WAIT);
        let wait = self.millis("wait")?.unwrap_or(default);
        if (min..=max).contains(&wait) {
            return Ok(wait);
        }
        let [wait, min, max] = [wait, min, max].map(|time| time.as_millis());
        Err(ApiError::BadRequest(format!("`wait` is {wait} ms: give {min} to {max}, or leave it out")))
    }

    /// `ttl`.
    ///
    /// # Errors
    /// When it is no number of milliseconds.
    pub(crate) fn ttl(&self) -> Result<Option<Duration>, ApiError> {
        self.millis("ttl")
    }

    fn millis(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Duration::from_millis).map(Some).map_err(|_| {
            ApiError::BadRequest(format!("`{name}` must be a whole number of milliseconds; correct it or leave it out"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_glued_to_a_segment_are_found() {
        let mut params = Params::parse(Some("gpu=A+B"));
        assert_eq!(params.split_segment("w1&batch_size=3&job_in_progress=0"), "w1");
        assert_eq!(params.number("batch_size"), Some(3));
        assert_eq!(params.get("gpu"), Some("A B"));
        assert_eq!(Params::parse(Some("job_id=a%00")).get("job_id"), Some("a\u{fffd}"));
    }
}
