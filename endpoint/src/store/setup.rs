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
    /// Leases of single endpoints that differ, by endpoint id.
    pub leases: HashMap<String, Duration>,
    /// Receives the jobs whose end is to be reported to a webhook.
    pub webhooks: WebhookQueue,
}

impl Setup {
    /// The limits of one endpoint.
    pub(crate) fn limits_of(&self, endpoint: &str) -> Limits {
        Limits { lease: self.leases.get(endpoint).copied().unwrap_or(self.limits.lease), ..self.limits }
    }
}

impl From<Limits> for Setup {
    fn from(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}
