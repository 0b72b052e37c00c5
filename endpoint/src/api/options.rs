//! What an operator can switch on.

use std::collections::HashMap;
use std::sync::Arc;

use super::cors::Origins;
use super::fair_by::FairBy;
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
    /// Web pages of other sites that may use the client API.
    pub origins: Origins,
    /// Log a warning for each result that the platform would refuse.
    pub warn_of_large_results: bool,
}

/// The configured endpoints and the defaults for their jobs.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The defaults of single endpoints, by id.
    pub policies: HashMap<String, Policy>,
    /// Who takes turns at endpoints that say nothing else.
    pub fair_by: Option<FairBy>,
    /// Who takes turns at single endpoints, by id.
    pub own_fair_by: HashMap<String, FairBy>,
    /// Only the endpoints in `policies` exist; otherwise others are created on first use.
    pub closed: bool,
}

impl Catalog {
    /// Who takes turns at this endpoint.
    pub(crate) fn fair_by(&self, endpoint: &str) -> Option<&FairBy> {
        self.own_fair_by.get(endpoint).or(self.fair_by.as_ref())
    }

    /// Whether requests to this endpoint are answered.
    pub(crate) fn has(&self, endpoint: &str) -> bool {
        !self.closed || self.policies.contains_key(endpoint)
    }

    /// Which ids to use instead of one that does not exist.
    pub(crate) fn advice(&self) -> String {
        /// Ids that are named.
        const NAMED: usize = 5;
        let mut ids: Vec<_> = self.policies.keys().map(String::as_str).collect();
        ids.sort_unstable();
        let others = ids.len().saturating_sub(NAMED);
        ids.truncate(NAMED);
        match &*ids {
            [] => "none is configured: add one to the file of --config".to_owned(),
            [only] => format!("use \"{only}\""),
            _ if others > 0 => format!("use one of \"{}\" or {others} more", ids.join("\", \"")),
            _ => format!("use one of \"{}\"", ids.join("\", \"")),
        }
    }

    /// The limits of a job that sets none.
    #[must_use]
    pub fn policy(&self, endpoint: &str) -> Policy {
        self.policies.get(endpoint).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_some_ids() {
        let advice = |ids: &[&str]| {
            let policies = ids.iter().map(|id| ((*id).to_owned(), Policy::default())).collect();
            Catalog { policies, closed: true, ..Catalog::default() }.advice()
        };
        assert_eq!(advice(&["local"]), "use \"local\"");
        assert_eq!(advice(&["b", "a"]), "use one of \"a\", \"b\"");
        assert_eq!(
            advice(&["a", "b", "c", "d", "e", "f", "g"]),
            "use one of \"a\", \"b\", \"c\", \"d\", \"e\" or 2 more"
        );
        assert!(advice(&[]).contains("--config"));
    }
}
