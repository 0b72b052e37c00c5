//! The tenant of a job as a label: the first few tenants have labels of their own, all later ones share `other`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use parking_lot::Mutex;

/// The label of jobs without a tenant, or without `--tenant-field`.
const DEFAULT: &str = "default";
/// The label of tenants beyond the limit.
const OTHER: &str = "other";

/// The tenants seen so far, up to a limit.
#[derive(Debug)]
pub(super) struct Tenants {
    limit: usize,
    known: Mutex<BTreeSet<String>>,
}

impl Tenants {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, known: Mutex::default() }
    }

    /// The label of a tenant. The first `limit` tenants have labels of their own until the worker ends.
    pub(super) fn label(&self, tenant: Option<&str>) -> Cow<'static, str> {
        let Some(tenant) = tenant else { return DEFAULT.into() };
        let mut known = self.known.lock();
        if known.contains(tenant) {
            return tenant.to_owned().into();
        }
        if known.len() >= self.limit {
            return OTHER.into();
        }
        known.insert(tenant.to_owned());
        tenant.to_owned().into()
    }
}
