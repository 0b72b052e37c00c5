//! On whose behalf jobs run, as a label: the first few names stand for themselves, all others for `other`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Of jobs that name no tenant, or when none is asked for.
const DEFAULT: &str = "default";
/// Of tenants beyond the limit.
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

    /// The label of a tenant. The first `limit` have a label of their own, for as long as the worker lives.
    pub(super) fn label(&self, tenant: Option<&str>) -> Cow<'static, str> {
        let Some(tenant) = tenant else { return DEFAULT.into() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
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
