//! The search in the history of an endpoint, page by page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use super::state::Console;
use super::wire::{Row, searched};
use crate::api::{ApiError, ReadQuery};
use crate::store::{HistoryQuery, JobRow, Status, Timestamp};

/// Jobs on one page.
const PAGE: usize = 50;
/// Characters of an error in the list.
const MAX_ERROR: usize = 300;

/// What is searched for. Times are milliseconds since 1970.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Search {
    status: Option<Status>,
    /// Part of the id, the worker's name or the error.
    #[serde(deserialize_with = "searched")]
    text: String,
    from: Option<u64>,
    until: Option<u64>,
    /// `next` of the page before.
    before: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    jobs: Vec<Found<'a>>,
    /// Where to go on; absent on the last page. A page may be empty and not the last one: a search looks at a bounded number of jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Found<'a> {
    fn new(row: &'a JobRow, origin: SystemTime) -> Self {
        let error = row.view.ending.error.as_deref();
        Self { row: Row::new(row, origin), error: error.map(|error| error.chars().take(MAX_ERROR).collect()) }
    }
}

/// The newest jobs that fit.
pub(super) async fn history(
    State(console): State<Console>,
    Path(endpoint): Path<String>,
    ReadQuery(search): ReadQuery<Search>,
) -> Result<Response, ApiError> {
    let origin = console.store.origin();
    let time = |millis: u64| since(origin, UNIX_EPOCH + Duration::from_millis(millis));
    let query = HistoryQuery {
        status: search.status,
        text: search.text,
        from: search.from.map(time),
        until: search.until.map(time),
        before: search.before,
        limit: PAGE,
    };
    let page = console.store.search(&endpoint, &query).await?;
    let jobs = page.rows.iter().map(|row| Found::new(row, origin)).collect();
    Ok(Json(Page { jobs, next: page.next }).into_response())
}

/// What the store's times count from is not the same for every store.
fn since(origin: SystemTime, at: SystemTime) -> Timestamp {
    at.duration_since(origin).unwrap_or_default()
}
