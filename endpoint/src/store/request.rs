//! What a client asks for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::batch::BatchId;
use super::payload::{Content, Part, Payload};

/// Job ids, unique within one endpoint.
pub type JobId = Arc<str>;

/// Limits that a client may set for one job (`policy` of a request).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Policy {
    /// Longest run time, counted from the moment a worker takes the job. `None`: none was set; the platform's default applies
    /// here, and the worker is sent none, because it may have a shorter one of its own.
    pub execution_timeout: Option<Duration>,
    /// Total life of the job record, counted from submission.
    pub ttl: Duration,
    /// Runs only when no other job waits.
    pub low_priority: bool,
}

impl Policy {
    /// The run time of a job that sets none. The platform: 10 minutes.
    pub const EXECUTION_TIMEOUT: Duration = Duration::from_secs(600);

    /// How long the job may run.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        self.execution_timeout.unwrap_or(Self::EXECUTION_TIMEOUT)
    }
}

impl Default for Policy {
    /// The platform's defaults: 10 minutes of run time, 24 hours of life.
    fn default() -> Self {
        Self { execution_timeout: None, ttl: Duration::from_secs(24 * 3600), low_priority: false }
    }
}

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Makes a submission that is repeated the same job. Digests, so that nothing of a caller's key is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The caller and the key that it has chosen.
    pub key: Digest,
    /// The body of the request.
    pub body: Digest,
}

/// What a job has from its submission and keeps unchanged to its end.
///
/// It moves whole: from the client to the queue, to the worker, to the webhook and to disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request<P = Payload> {
    /// What the handler gets.
    pub input: P,
    /// Bucket credentials for the handler, passed through.
    pub s3_config: Option<P>,
    /// Where to report the end of the job.
    pub webhook: Option<Arc<str>>,
    /// The trace that the job belongs to, passed through.
    pub traceparent: Option<Arc<str>>,
    /// The batch that the job belongs to.
    pub batch: Option<BatchId>,
    /// Limits.
    pub policy: Policy,
    /// How long the result stays readable.
    pub retention: Duration,
    /// Set when the caller may repeat its request.
    pub idempotency: Option<Idempotency>,
    /// Whose turn it uses: jobs of different shares are taken in turn.
    pub share: Option<Arc<str>>,
}

impl<P> Request<P> {
    /// A request with an input alone.
    #[must_use]
    pub fn new(input: P, policy: Policy, retention: Duration) -> Self {
        Self {
            input,
            s3_config: None,
            webhook: None,
            traceparent: None,
            batch: None,
            policy,
            retention,
            idempotency: None,
            share: None,
        }
    }

    /// The same with its payloads in another form.
    pub(crate) fn map<Q>(self, mut form: impl FnMut(Part, P) -> Q) -> Request<Q> {
        let Ok(request) = self.try_map(|part, payload| Ok::<_, Infallible>(form(part, payload)));
        request
    }

    /// The same with its payloads in another form, or the first failure to bring one into it.
    fn try_map<Q, E>(self, mut form: impl FnMut(Part, P) -> Result<Q, E>) -> Result<Request<Q>, E> {
        Ok(Request {
            input: form(Part::Input, self.input)?,
            s3_config: self.s3_config.map(|config| form(Part::S3Config, config)).transpose()?,
            webhook: self.webhook,
            traceparent: self.traceparent,
            batch: self.batch,
            policy: self.policy,
            retention: self.retention,
            idempotency: self.idempotency,
            share: self.share,
        })
    }

    /// Whether its end is to be reported to a webhook.
    pub(crate) fn wants_report(&self) -> bool {
        self.webhook.is_some()
    }

    /// Its payloads, in the order in which [`map`](Self::map) visits them.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = &P> {
        std::iter::once(&self.input).chain(&self.s3_config)
    }

    pub(crate) fn payloads_mut(&mut self) -> impl Iterator<Item = (Part, &mut P)> {
        let config = self.s3_config.as_mut().map(|config| (Part::S3Config, config));
        std::iter::once((Part::Input, &mut self.input)).chain(config)
    }

    /// The same with payloads that were loaded in the order of [`payloads`](Self::payloads); `None` when one is missing
    /// because the record has expired meanwhile. Takes exactly its own ones from `loaded`.
    pub(crate) fn loaded(self, loaded: &mut impl Iterator<Item = Option<Payload>>) -> Option<Request> {
        let mut own = loaded.take(self.payloads().count()).collect::<Vec<_>>().into_iter();
        self.try_map(|_, _| own.next().flatten().ok_or(())).ok()
    }
}

impl<P: Content> Request<P> {
    /// Bytes of what stays in memory, with a data file too.
    pub(crate) fn bytes_beside_payloads(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        text(&self.webhook) + text(&self.share) + self.idempotency.as_ref().map_or(0, size_of_val)
    }
}

/// A job as a client submits it.
#[derive(Debug, Clone)]
pub struct NewJob<P = Payload> {
    /// The id, chosen by the caller.
    pub id: JobId,
    /// What is to be done.
    pub request: Request<P>,
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn a_request_whose_payloads_are_gone_leaves_those_of_the_next_one_alone() {
        let payload = |text: &str| -> Payload { RawValue::from_string(text.to_owned()).unwrap().into() };
        let request = || Request { s3_config: Some(0), ..Request::new(0, Policy::default(), Duration::ZERO) };
        let mut loaded = [None, Some(payload("1")), Some(payload("2")), Some(payload("3"))].into_iter();
        assert!(request().loaded(&mut loaded).is_none());
        let second = request().loaded(&mut loaded).unwrap();
        assert_eq!((second.input.get(), second.s3_config.unwrap().get()), ("2", "3"));
    }
}
