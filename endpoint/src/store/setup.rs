//! The settings of a store.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::limits::Limits;
use super::webhook_queue::WebhookQueue;

/// The settings of a store. [`Limits`] alone are enough for most.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Bounds and timings of each endpoint.
    pub limits: Limits,
    /// The endpoints that are configured: they exist from the start, and never make room for others.
    pub endpoints: HashSet<String>,
    /// What differs at single endpoints, by endpoint id.
    pub overrides: HashMap<String, Overrides>,
    /// Receives the jobs whose end is to be reported to a webhook.
    pub webhooks: WebhookQueue,
}

/// The limits that one endpoint has of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// See [`Limits::lease`].
    pub lease: Option<Duration>,
    /// See [`Limits::max_retries`].
    pub max_retries: Option<u32>,
    /// See [`Limits::max_queued`].
    pub max_queued: Option<usize>,
    /// See [`Limits::retention`].
    pub retention: Option<Duration>,
}

impl Setup {
    /// The limits of one endpoint.
    pub(crate) fn limits_of(&self, endpoint: &str) -> Limits {
        let own = self.overrides.get(endpoint).copied().unwrap_or_default();
        Limits {
            lease: own.lease.unwrap_or(self.limits.lease),
            max_retries: own.max_retries.unwrap_or(self.limits.max_retries),
            max_queued: own.max_queued.or(self.limits.max_queued),
            retention: own.retention.or(self.limits.retention),
            ..self.limits
        }
    }
}

impl From<Limits> for Setup {
    fn from(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}
