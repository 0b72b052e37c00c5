//! The JSON document that a webhook carries.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::store::{Status, Webhook};

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
        let job = &webhook.job;
        Self {
            cost: job.cost.as_deref(),
            delay_time: job.delay.map(|time| time.as_millis()),
            error: job.error.as_deref(),
            execution_time: job.execution.map(|time| time.as_millis()),
            id: &job.id,
            input: &webhook.input,
            output: job.output.as_deref(),
            retries: Some(job.retries).filter(|retries| *retries > 0),
            status: job.status,
            webhook: &webhook.url,
            worker_id: job.worker.as_deref(),
        }
    }
}
