//! Submissions that name a key: the same key is the same job, for as long as its record is kept.

use std::collections::HashMap;
use std::sync::Arc;

use super::Queue;
use crate::store::error::StoreError;
use crate::store::payload::Content;
use crate::store::request::{Digest, JobId, Request};
use crate::store::views::JobView;

/// The jobs that were submitted with a key.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<Digest, JobId>);

impl Keys {
    pub(super) fn note<P>(&mut self, request: &Request<P>, id: &JobId) {
        if let Some(idempotency) = &request.idempotency {
            self.0.insert(idempotency.key, Arc::clone(id));
        }
    }

    pub(super) fn forget<P>(&mut self, request: &Request<P>) {
        if let Some(idempotency) = &request.idempotency {
            self.0.remove(&idempotency.key);
        }
    }
}

impl<P: Content> Queue<P> {
    /// The job that an earlier submission with this key has made.
    ///
    /// # Errors
    /// When that submission had another body.
    pub(super) fn submitted_before(&self, request: &Request<P>) -> Result<Option<JobView<P>>, StoreError> {
        let Some(own) = &request.idempotency else { return Ok(None) };
        let Some(job) = self.keys.0.get(&own.key).and_then(|id| self.jobs.get(id)) else { return Ok(None) };
        match &job.record.request.idempotency {
            Some(first) if first.body == own.body => Ok(Some(job.view())),
            _ => Err(StoreError::KeyReused),
        }
    }
}
