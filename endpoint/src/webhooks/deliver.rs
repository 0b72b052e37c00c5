//! Deliveries: tries, their ends, and bounds.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use runpod_address_guard::Guard;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::body::WebhookBody;
use super::client::{SendError, WebhookClient};
use super::origin::{Origin, Origins, Permits};
use super::schedule::Schedule;
use super::signature::Signer;
use crate::store::{Store, Webhook, WebhookDue, WebhookEnd, WebhookOutcomes};

/// Deliveries to one receiver that have begun and not ended. Those beyond the limit are given up at once, and can be sent again. Each
/// takes a few hundred bytes, because the body is fetched for each try.
const MAX_PENDING_OF_ORIGIN: usize = 20_000;

/// Deliveries to all receivers, beyond which each receiver has only [`MIN_PENDING_OF_ORIGIN`].
const MAX_PENDING: usize = 100_000;

/// What each receiver may have pending however many deliveries there are.
const MIN_PENDING_OF_ORIGIN: usize = 100;

/// How much longer than its schedule a delivery waits for a permit, when its receiver is busy with the failure of others.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often it is tried to note the end of a delivery in the store.
const STORE_ATTEMPTS: u32 = 60;

/// Pause between two of these tries.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Why no webhooks can be delivered.
#[derive(Debug, thiserror::Error)]
#[error("the webhook client cannot start: {0}; check the certificate settings of this machine")]
pub struct WebhooksError(#[from] reqwest::Error);

/// Delivers webhooks.
#[derive(Clone)]
pub struct Webhooks {
    store: Arc<dyn Store>,
    client: WebhookClient,
    signer: Option<Signer>,
    outcomes: WebhookOutcomes,
    permits: Arc<Permits>,
    schedule: Schedule,
}

impl Webhooks {
    /// A deliverer for the jobs of `store`; with a `signer` each request proves where it comes from.
    ///
    /// # Errors
    /// When the TLS settings of this machine are unusable.
    pub fn new(store: Arc<dyn Store>, guard: Guard, signer: Option<Signer>) -> Result<Self, WebhooksError> {
        let client = WebhookClient::new(guard)?;
        let (outcomes, permits) = (WebhookOutcomes::default(), Arc::default());
        Ok(Self { store, client, signer, outcomes, permits, schedule: Schedule::default() })
    }

    /// Counts how deliveries end.
    #[must_use]
    pub fn counting(self, outcomes: WebhookOutcomes) -> Self {
        Self { outcomes, ..self }
    }

    /// Sends what was not accepted again at other times.
    #[must_use]
    pub fn with_schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// Delivers until the store is dropped or `shutdown`. What is not delivered by then is due again when a durable store is
    /// opened the next time.
    pub async fn run(self, mut due: mpsc::UnboundedReceiver<WebhookDue>, shutdown: CancellationToken) {
        let mut origins = Origins::default();
        let mut pending = JoinSet::new();
        loop {
            let next = tokio::select! {
                next = due.recv() => next,
                Some(_) = pending.join_next() => continue,
                () = shutdown.cancelled() => return,
            };
            let Some(next) = next else { break };
            let origin = origins.of(&next.url);
            let bound = if pending.len() < MAX_PENDING { MAX_PENDING_OF_ORIGIN } else { MIN_PENDING_OF_ORIGIN };
            let has_room = Arc::strong_count(&origin) <= bound;
            let deliverer = self.clone();
            pending.spawn(async move {
                let end = if has_room {
                    deliverer.deliver(&next, &origin).await
                } else {
                    Some(WebhookEnd::GivenUp("too many webhooks wait for this receiver".into()))
                };
                deliverer.note(&next, &origin, end).await;
            });
        }
        tokio::select! {
            _ = pending.join_all() => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Tries until the receiver accepts or the time is over. `None` when there is no end to report any more: the job was queued again.
    async fn deliver(&self, due: &WebhookDue, origin: &Origin) -> Option<WebhookEnd> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let error = match self.attempt(due, origin, begun).await? {
                Ok(()) => return Some(WebhookEnd::Delivered),
                Err(error) => error,
            };
            tries += 1;
            let pause = self.schedule.pause(tries, begun.elapsed()).filter(|_| !error.is_final());
            let Some(pause) = pause else {
                return Some(WebhookEnd::GivenUp(format!("{error} (tries: {tries})").into()));
            };
            tracing::info!(job = %due.job, receiver = origin.name, tries, %error, ?pause, "The webhook was not accepted. It is sent again.");
            sleep(pause).await;
        }
    }

    /// One try. `None` when there is no end to report any more.
    async fn attempt(&self, due: &WebhookDue, origin: &Origin, begun: Instant) -> Option<Result<(), SendError>> {
        let Ok(permit) = timeout_at(begun + self.schedule.span() + PATIENCE, self.permits.acquire(origin)).await else {
            return Some(Err(SendError::NoPermit));
        };
        let permit = permit?;
        let webhook = match self.store.webhook(&due.endpoint, &due.job).await {
            Ok(webhook) => webhook.filter(|webhook| webhook.end_number == due.end_number)?,
            Err(error) => return Some(Err(error.into())),
        };
        let body = Bytes::from(serde_json::to_vec(&WebhookBody::from(&webhook)).ok()?);
        let sent = self.client.post(&webhook.url, self.headers(&webhook, &body), body).await;
        permit.release(sent.is_ok());
        Some(sent)
    }

    /// Notes how a delivery has ended, so that it is not due again after a restart, and can be sent again if it was given up.
    async fn note(&self, due: &WebhookDue, origin: &Origin, end: Option<WebhookEnd>) {
        let Some(end) = end else { return self.outcomes.count_dropped() };
        match &end {
            WebhookEnd::Delivered => self.outcomes.count_delivered(),
            WebhookEnd::GivenUp(reason) => {
                self.outcomes.count_failed();
                tracing::warn!(job = %due.job, receiver = origin.name, %reason, "The webhook is given up. `runpod-endpoint webhooks` lists it, and sends it again.");
            }
        }
        for _ in 0..STORE_ATTEMPTS {
            match self.store.webhook_ended(&due.endpoint, &due.job, due.end_number, end.clone()).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(job = %due.job, %error, "The end of a webhook's delivery cannot be noted.");
                }
            }
            sleep(STORE_PAUSE).await;
        }
        tracing::error!(job = %due.job, "This webhook may be delivered again after a restart.");
    }

    /// The headers of the Standard Webhooks specification. Receivers drop repetitions by the id: all tries to report one
    /// end share it, and the end after a `/retry` has another.
    fn headers(&self, webhook: &Webhook, body: &[u8]) -> HeaderMap {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = HeaderMap::new();
        let mut insert = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        let id = format!("{}-{}", webhook.job.id, webhook.end_number);
        insert("webhook-id", &id);
        insert("webhook-timestamp", &now.to_string());
        if let Some(traceparent) = &webhook.request.traceparent {
            insert("traceparent", traceparent);
        }
        if let Some(signer) = &self.signer {
            insert("webhook-signature", &signer.sign(&id, now, body));
        }
        headers
    }
}
