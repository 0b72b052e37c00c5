//! Tries, pauses and bounds.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use runpod_address_guard::Guard;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::body::WebhookBody;
use super::client::{SendError, WebhookClient};
use super::signature::Signer;
use crate::store::{Store, Webhook, WebhookDue, WebhookOutcomes};

/// Pauses before the second and the third try, as captured from the platform.
const GAPS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15)];

/// Tries in flight at once, all receivers together and one receiver alone.
const MAX_IN_FLIGHT: usize = 64;
const MAX_IN_FLIGHT_PER_HOST: usize = 8;

/// Deliveries begun and not ended, all receivers together and one receiver alone. Each is a few hundred bytes: the
/// body is fetched for each try.
const MAX_PENDING: usize = 100_000;
const MAX_PENDING_PER_HOST: usize = 20_000;

/// Before a job is read again that could not be read, and how often it is read.
const STORE_PAUSE: Duration = Duration::from_secs(1);
const STORE_ATTEMPTS: u32 = 60;

/// Receivers remembered before those without deliveries are forgotten.
const MAX_HOSTS: usize = 1000;

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
    in_flight: Arc<Semaphore>,
    gaps: [Duration; 2],
}

/// One receiver: a slow one holds up its own deliveries only.
#[derive(Debug)]
struct Host {
    name: String,
    in_flight: Semaphore,
}

impl Webhooks {
    /// A deliverer for the jobs of `store`; with a `signer` each request proves where it comes from.
    ///
    /// # Errors
    /// When the TLS settings of this machine are unusable.
    pub fn new(store: Arc<dyn Store>, guard: Guard, signer: Option<Signer>) -> Result<Self, WebhooksError> {
        let client = WebhookClient::new(guard)?;
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Ok(Self { store, client, signer, outcomes: WebhookOutcomes::default(), in_flight, gaps: GAPS })
    }

    /// Counts how deliveries end.
    #[must_use]
    pub fn counting(self, outcomes: WebhookOutcomes) -> Self {
        Self { outcomes, ..self }
    }

    /// Other pauses before the second and the third try.
    #[must_use]
    pub fn with_gaps(self, gaps: [Duration; 2]) -> Self {
        Self { gaps, ..self }
    }

    /// Delivers until the store is dropped or `shutdown`. What is not delivered by then is due again when a durable store is
    /// opened the next time.
    pub async fn run(self, mut due: mpsc::Receiver<WebhookDue>, shutdown: CancellationToken) {
        let mut hosts: HashMap<String, Weak<Host>> = HashMap::new();
        let mut pending = JoinSet::new();
        loop {
            let next = tokio::select! {
                next = due.recv(), if pending.len() < MAX_PENDING => next,
                Some(_) = pending.join_next() => continue,
                () = shutdown.cancelled() => return,
            };
            let Some(next) = next else { break };
            let found = tokio::select! {
                found = self.find(&next) => found,
                () = shutdown.cancelled() => return,
            };
            let Some(webhook) = found else {
                self.outcomes.count_dropped();
                continue;
            };
            let host = host_of(&mut hosts, &webhook.url);
            if Arc::strong_count(&host) > MAX_PENDING_PER_HOST {
                self.outcomes.count_dropped();
                tracing::warn!(
                    job = next.job,
                    host = host.name,
                    "Too many webhooks wait for this receiver: this one is dropped."
                );
                continue;
            }
            let deliverer = self.clone();
            pending.spawn(async move {
                deliverer.deliver(&next, &host).await;
                if let Err(error) = deliverer.store.webhook_settled(&next.endpoint, &next.job).await {
                    tracing::warn!(job = next.job, %error, "This webhook may be delivered again after a restart.");
                }
            });
        }
        tokio::select! {
            _ = pending.join_all() => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// The end of the job that is to be reported. `None` when there is none any more, or when the store cannot be read for so
    /// long that the others must not wait for this one.
    async fn find(&self, due: &WebhookDue) -> Option<Webhook> {
        for _ in 0..STORE_ATTEMPTS {
            match self.store.webhook(&due.endpoint, &due.job).await {
                Ok(webhook) => return webhook,
                Err(error) => tracing::warn!(job = due.job, %error, "Webhooks wait: a finished job cannot be read."),
            }
            sleep(STORE_PAUSE).await;
        }
        tracing::error!(
            job = due.job,
            "A webhook is skipped, because its job cannot be read. It is due again after a restart."
        );
        None
    }

    async fn deliver(&self, due: &WebhookDue, host: &Host) {
        let gaps = self.gaps.into_iter().map(Some).chain([None]);
        for (attempt, gap) in gaps.enumerate() {
            let error = match self.attempt(due, host).await {
                None => return self.outcomes.count_dropped(),
                Some(Ok(())) => return self.outcomes.count_delivered(),
                Some(Err(error)) => error,
            };
            let attempt = attempt + 1;
            match gap.filter(|_| !error.is_final()) {
                Some(gap) => {
                    tracing::info!(job = due.job, host = host.name, attempt, %error, ?gap, "The webhook was not accepted. It is tried again.");
                    sleep(gap).await;
                }
                None => {
                    self.outcomes.count_failed();
                    tracing::warn!(job = due.job, host = host.name, attempt, %error, "The webhook was not accepted and is given up.");
                    return;
                }
            }
        }
    }

    /// One try. `None` when there is no end to report any more: the record has expired or the job was queued again.
    async fn attempt(&self, due: &WebhookDue, host: &Host) -> Option<Result<(), SendError>> {
        // A full receiver must not occupy the places of the others, so its own limit comes first.
        let _of_host = host.in_flight.acquire().await.ok()?;
        let _of_all = self.in_flight.acquire().await.ok()?;
        let webhook = match self.store.webhook(&due.endpoint, &due.job).await {
            Ok(webhook) => webhook?,
            Err(error) => return Some(Err(error.into())),
        };
        let body = Bytes::from(serde_json::to_vec(&WebhookBody::from(&webhook)).ok()?);
        Some(self.client.post(&webhook.url, self.headers(&webhook, &body), body).await)
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

fn host_of(hosts: &mut HashMap<String, Weak<Host>>, url: &str) -> Arc<Host> {
    let name = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    if let Some(host) = hosts.get(&name).and_then(Weak::upgrade) {
        return host;
    }
    if hosts.len() >= MAX_HOSTS {
        hosts.retain(|_, host| host.strong_count() > 0);
    }
    let host = Arc::new(Host { name: name.clone(), in_flight: Semaphore::new(MAX_IN_FLIGHT_PER_HOST) });
    hosts.insert(name, Arc::downgrade(&host));
    host
}
