//! From the body of a request to a job in the queue.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use uuid::Uuid;

use super::app::App;
use super::auth::CallerKey;
use super::body;
use super::error::ApiError;
use super::idempotency;
use super::json;
use super::limits;
use super::trace;
use super::wire::SubmitRequest;
use crate::faults;
use crate::store::{self, JobView, NewJob, Payload};
use crate::webhooks::BadTarget;

/// What differs between `/run` and `/runsync`.
pub(crate) struct Submission {
    pub(crate) max_body: usize,
    id_prefix: &'static str,
    retention: Duration,
}

pub(crate) const RUN: Submission =
    Submission { max_body: limits::RUN_BODY, id_prefix: "", retention: limits::RUN_RETENTION };
pub(crate) const RUNSYNC: Submission =
    Submission { max_body: limits::RUNSYNC_BODY, id_prefix: "sync-", retention: limits::RUNSYNC_RETENTION };

/// Queues the job that a body asks for.
pub(crate) async fn submit(
    app: &App,
    endpoint: &str,
    request: Request,
    kind: &Submission,
) -> Result<JobView, ApiError> {
    let (Parts { headers, extensions, .. }, body) = request.into_parts();
    let caller = CallerKey::of(&extensions);
    let body = body::read(body, kind.max_body, &app.request_memory).await;
    let body = body.map_err(|error| error.of_client(kind.max_body))?;
    let request: SubmitRequest = json::object(&body).map_err(|error| {
        ApiError::BadRequest(format!("the body must be a JSON object like {{\"input\": {{...}}}}: {error}"))
    })?;
    let mut job = requested_job(app, endpoint, &headers, &caller, request, kind)?;
    if let Some(url) = &job.request.webhook {
        app.options.webhooks.check(url).await.map_err(|error| undeliverable(&error))?;
    }
    job.request.idempotency = idempotency::of(&headers, &caller, &body)?;
    if let (Some(faults), Some(header)) = (&app.options.faults, headers.get(faults::HEADER)) {
        faults.attach(&job.id, header.to_str().unwrap_or_default())?;
    }
    Ok(app.store.submit(endpoint, job).await?)
}

/// The job that a request asks for, if it can be run as asked. Whether it can be reported is for the caller to check.
pub(crate) fn requested_job(
    app: &App,
    endpoint: &str,
    headers: &HeaderMap,
    caller: &CallerKey,
    request: SubmitRequest,
    kind: &Submission,
) -> Result<NewJob, ApiError> {
    let Some(input) = request.input else {
        return Err(ApiError::BadRequest("`input` is missing: send {\"input\": {...}}".to_owned()));
    };
    let webhook = request.webhook.filter(|url| !url.is_empty());
    if webhook.as_ref().is_some_and(|url| url.len() > limits::WEBHOOK_URL) {
        let limit = limits::WEBHOOK_URL >> 10;
        return Err(ApiError::BadRequest(format!("`webhook` is longer than {limit} KiB; give a shorter URL")));
    }
    let mut job = new_job(app, endpoint, caller, Arc::from(input), kind);
    job.request.s3_config = request.s3_config.map(Arc::from);
    job.request.webhook = webhook.map(Arc::from);
    job.request.traceparent = trace::traceparent(headers);
    if let Some(policy) = request.policy {
        job.request.policy = policy.validate(job.request.policy)?;
    }
    Ok(job)
}

/// A job with a new id and the endpoint's limits.
pub(crate) fn new_job(app: &App, endpoint: &str, caller: &CallerKey, input: Payload, kind: &Submission) -> NewJob {
    let catalog = &app.options.catalog;
    let share = catalog.fair_by(endpoint).map(|by| by.share(caller, &input));
    let request = store::Request::new(input, catalog.policy(endpoint), kind.retention);
    NewJob {
        id: Arc::from(format!("{}{}-u1", kind.id_prefix, Uuid::new_v4())),
        request: store::Request { share, ..request },
    }
}

/// The refusal of a webhook.
pub(crate) fn undeliverable(error: &BadTarget) -> ApiError {
    ApiError::BadRequest(format!("`webhook` can never be delivered: {error}"))
}
