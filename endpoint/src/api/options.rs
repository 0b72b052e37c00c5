//! What an operator may switch on.

use std::collections::HashMap;
use std::sync::Arc;

use super::rate_limit::RateLimits;
use crate::faults::Faults;
use crate::store::Policy;

/// Everything beyond the plain protocol. By default: any endpoint id works, nothing is limited, nothing is faulty.
#[derive(Debug, Default)]
pub struct Options {
    /// The endpoints that are configured.
    pub catalog: Catalog,
    /// The platform's rate limits.
    pub rate_limits: Option<RateLimits>,
    /// Scripted faults.
    pub faults: Option<Arc<Faults>>,
}

/// Which endpoints exist and what applies to their jobs unless a job says otherwise.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The defaults of single endpoints, by id.
    pub policies: HashMap<String, Policy>,
    /// Only the endpoints in `policies` exist; otherwise others are created on first use.
    pub closed: bool,
}

impl Catalog {
    /// The limits of a job that sets none itself.
    #[must_use]
    pub fn policy(&self, endpoint: &str) -> Policy {
        self.policies.get(endpoint).copied().unwrap_or_default()
    }
}
