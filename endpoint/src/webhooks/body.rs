//! The JSON document that a webhook carries.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::{JobView, Status, Webhook};

/// The job document plus `input` and `webhook`. Field order is alphabetical, as in the platform's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_time: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<u128>,
    id: &'a str,
    input: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    status: Status,
    webhook: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<&'a str>,
}

impl<'a> From<&'a Webhook> for WebhookBody<'a> {
    fn from(webhook: &'a Webhook) -> Self {
        let JobView { id, status, attempt, ending } = &webhook.job;
        Self {
            cost: ending.cost.as_deref().map(AsRef::as_ref),
            delay_time: attempt.delay.map(|time| time.as_millis()),
            error: ending.error.as_deref(),
            execution_time: attempt.execution.map(|time| time.as_millis()),
            id,
            input: &webhook.request.input,
            output: ending.output.as_deref().map(AsRef::as_ref),
            retries: Some(attempt.retries).filter(|retries| *retries > 0),
            status: *status,
            webhook: &webhook.url,
            worker_id: attempt.worker.as_deref(),
        }
    }
}
