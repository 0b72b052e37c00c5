//! What an operator can switch on.

use std::collections::HashMap;
use std::sync::Arc;

use super::rate_limit::RateLimits;
use crate::faults::Faults;
use crate::store::Policy;
use crate::webhooks::TargetCheck;

/// Everything beyond the plain protocol. By default every endpoint id is accepted, and there are no rate limits and no faults.
#[derive(Debug, Default)]
pub struct Options {
    /// The endpoints that are configured.
    pub catalog: Catalog,
    /// The platform's rate limits.
    pub rate_limits: Option<RateLimits>,
    /// Scripted faults.
    pub faults: Option<Arc<Faults>>,
    /// Which webhooks are accepted: those that can be delivered.
    pub webhooks: TargetCheck,
    /// Log a warning for each result that the platform would refuse.
    pub warn_of_large_results: bool,
}

/// The configured endpoints and the defaults for their jobs.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The defaults of single endpoints, by id.
    pub policies: HashMap<String, Policy>,
    /// Only the endpoints in `policies` exist; otherwise others are created on first use.
    pub closed: bool,
}

impl Catalog {
    /// The limits of a job that sets none.
    #[must_use]
    pub fn policy(&self, endpoint: &str) -> Policy {
        self.policies.get(endpoint).copied().unwrap_or_default()
    }
}
