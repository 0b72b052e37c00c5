//! Workers that several processes know: their records come from a database for one unit of work, and go back into it.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Worker, Workers};
use crate::store::clock::Timestamp;
use crate::store::model::Model;
use crate::store::request::JobId;

/// The polls of one worker that are open, at all processes that it polls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OpenPolls {
    /// For jobs.
    pub(crate) jobs: usize,
    /// For stop signals.
    pub(crate) stops: usize,
}

/// A worker as a database keeps it. The jobs that it holds are known from the jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptWorker {
    pub(crate) id: Arc<str>,
    /// JSON, read by this module only.
    pub(crate) record: String,
    pub(crate) polls: OpenPolls,
    pub(crate) forget_at: Timestamp,
    /// It has stop signals to fetch.
    pub(crate) has_stops: bool,
}

impl Workers {
    /// Puts a worker in as it was left.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn load(
        &mut self,
        id: &Arc<str>,
        record: &str,
        polls: OpenPolls,
        held: HashSet<JobId>,
    ) -> serde_json::Result<()> {
        let mut worker: Worker = serde_json::from_str(record)?;
        worker.polls_open = polls.jobs;
        worker.presence.set_polls_open(polls.jobs + polls.stops);
        worker.held = held;
        self.deadlines.insert((worker.forget_at, Arc::clone(id)));
        self.by_id.insert(Arc::clone(id), worker);
        Ok(())
    }

    /// One worker as it is to be kept.
    ///
    /// # Errors
    /// When the record has no JSON form, which does not happen: it has no map with other keys than strings.
    pub(crate) fn kept(&self, id: &str) -> serde_json::Result<Option<KeptWorker>> {
        let Some((id, worker)) = self.by_id.get_key_value(id) else { return Ok(None) };
        let open = worker.presence.polls_open();
        Ok(Some(KeptWorker {
            id: Arc::clone(id),
            record: serde_json::to_string(worker)?,
            polls: OpenPolls { jobs: worker.polls_open, stops: open.saturating_sub(worker.polls_open) },
            forget_at: worker.forget_at,
            has_stops: !worker.stops.is_empty(),
        }))
    }

    /// What the last one of these workers runs that had something new to say.
    pub(crate) fn newest_model(&self) -> Option<Arc<Model>> {
        let newest =
            self.by_id.values().filter(|worker| worker.model.is_some()).max_by_key(|worker| worker.model_since);
        newest.and_then(|worker| worker.model.clone())
    }

    /// Whether a request of this process would be admitted without a change worth keeping.
    pub(crate) fn admits_quietly(&self, now: Timestamp, id: &str, instance: Option<&str>) -> bool {
        match self.by_id.get(id) {
            Some(worker) => worker.presence.admits_quietly(now, instance),
            None => instance.is_none(),
        }
    }
}
