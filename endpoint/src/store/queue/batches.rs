//! Batches: their states, and which of their requests may run.

use std::sync::Arc;

use super::batch_table::{Batch, BatchRecord, BatchTable};
use super::transitions::End;
use super::{MAX_DUE, Queue};
use crate::store::batch::{BatchId, BatchState, BatchView};
use crate::store::batches::BatchRequest;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::job::{Position, State};
use crate::store::payload::Content;
use crate::store::request::{JobId, NewJob};
use crate::store::status::Status;
use crate::store::views::Page;

impl<P: Content> Queue<P> {
    /// Creates a draft with these requests: all of them or none.
    ///
    /// # Errors
    /// When there are too many batches or requests, or no room for more jobs.
    pub fn create_batch(
        &mut self,
        now: Timestamp,
        id: &BatchId,
        jobs: Vec<NewJob<P>>,
    ) -> Result<BatchView, StoreError> {
        if self.active_batches() + self.elsewhere.batches >= self.limits.max_batches {
            return Err(StoreError::TooManyBatches(self.limits.max_batches));
        }
        if self.batches.by_id.contains_key(id) {
            return Err(StoreError::DuplicateJob);
        }
        self.check_batch_room(0, jobs.len())?;
        let number = self.new_number();
        self.batches.insert(BatchRecord {
            id: Arc::clone(id),
            number,
            name: None,
            state: BatchState::Draft,
            created: now,
            expires: Some(now + self.limits.batch_retention),
        });
        self.insert_members(now, id, jobs);
        self.batch_view(id)
    }

    /// Adds requests to a draft: all of them or none.
    ///
    /// # Errors
    /// When the batch is unknown or no draft, has too many requests, or when there is no room for more jobs.
    pub fn add_to_batch(&mut self, now: Timestamp, id: &str, jobs: Vec<NewJob<P>>) -> Result<BatchView, StoreError> {
        let batch = self.draft(id)?;
        let (id, members) = (Arc::clone(&batch.record.id), batch.counts.total());
        self.check_batch_room(members, jobs.len())?;
        self.insert_members(now, &id, jobs);
        self.batches.set_expires(&id, Some(now + self.limits.batch_retention));
        self.batch_view(&id)
    }

    /// Removes a request from a draft.
    ///
    /// # Errors
    /// When the batch is unknown or no draft, or has no such request.
    pub fn remove_from_batch(&mut self, id: &str, job: &str) -> Result<BatchView, StoreError> {
        let members = &self.draft(id)?.members;
        let found = self.jobs.get(job).filter(|found| members.contains(&found.record.number));
        let (job, unfinished) = match found {
            Some(found) => (Arc::clone(&found.record.id), !found.status().is_terminal()),
            None => return Err(StoreError::JobNotFound),
        };
        self.totals.cancelled += u64::from(unfinished);
        self.forget(&job);
        self.batch_view(id)
    }

    /// Gives a batch another name, or none.
    ///
    /// # Errors
    /// When the batch is unknown.
    pub fn rename_batch(&mut self, id: &str, name: Option<Arc<str>>) -> Result<BatchView, StoreError> {
        let found = self.batches.by_id.get_mut(id).filter(|batch| !batch.is_over);
        let batch = found.ok_or(StoreError::BatchNotFound)?;
        batch.record.name = name;
        self.journal.batch_touched(&batch.record.id);
        self.batch_view(id)
    }

    /// Queues the requests of a draft.
    ///
    /// # Errors
    /// When the batch is unknown, no draft, or empty.
    pub fn finalize_batch(&mut self, now: Timestamp, id: &str) -> Result<BatchView, StoreError> {
        let batch = self.draft(id)?;
        if batch.counts.total() == 0 {
            return Err(StoreError::EmptyBatch);
        }
        let id = Arc::clone(&batch.record.id);
        self.set_batch_state(&id, BatchState::Finalized);
        for job in self.unfinished_members(&id) {
            let Some(record) = self.jobs.get_mut(&job).map(|job| &mut job.record) else { continue };
            record.submitted = now;
            // Its turn comes after those of the jobs that wait already.
            let Position { low_priority, number, .. } = record.position;
            record.position = self.waiting.place(low_priority, number, &record.request.share);
            let position = record.position;
            self.enqueue(position, &job);
            self.changed(&job);
        }
        self.review_batch(&id);
        self.batch_view(&id)
    }

    /// Cancels the requests that wait. Those that run go on; once they have ended, the batch is CANCELLED.
    ///
    /// # Errors
    /// When the batch is unknown, or has ended otherwise.
    pub fn cancel_batch(&mut self, now: Timestamp, id: &str) -> Result<BatchView, StoreError> {
        let batch = self.batches.get(id)?;
        if batch.record.state == BatchState::Finalized && !batch.is_active() {
            return Err(StoreError::BatchEnded);
        }
        let id = Arc::clone(&batch.record.id);
        if matches!(batch.record.state, BatchState::Draft | BatchState::Finalized) {
            self.set_batch_state(&id, BatchState::Cancelling);
            for job in self.unfinished_members(&id) {
                if self.jobs.get(&job).is_some_and(|job| matches!(job.record.state, State::Queued)) {
                    self.close(now, &job, End::of(Status::Cancelled));
                }
            }
            self.review_batch(&id);
        }
        self.batch_view(&id)
    }

    /// The batch as readers see it.
    ///
    /// # Errors
    /// When it is unknown.
    pub fn batch_view(&self, id: &str) -> Result<BatchView, StoreError> {
        self.batches.get(id).map(Batch::view)
    }

    /// The batches, newest first.
    #[must_use]
    pub fn batch_list(&self, offset: usize, limit: usize) -> Page<BatchView> {
        let BatchTable { by_id, by_age, .. } = &self.batches;
        let newest = by_age.values().rev().skip(offset).take(limit);
        Page { entries: newest.filter_map(|id| by_id.get(id)).map(Batch::view).collect(), total: by_age.len() }
    }

    /// The requests of a batch, in the order in which they were added.
    ///
    /// # Errors
    /// When the batch is unknown.
    pub fn batch_requests(&self, id: &str, offset: usize, limit: usize) -> Result<Page<BatchRequest<P>>, StoreError> {
        let Batch { members, counts, .. } = self.batches.get(id)?;
        let entries = members.iter().skip(offset).take(limit).filter_map(|number| {
            let job = self.jobs.get(self.by_age.get(number)?)?;
            let (started, completed) = job.times();
            Some(BatchRequest { view: job.view(), started, completed })
        });
        Ok(Page { entries: entries.collect(), total: counts.total() })
    }

    /// Counts a job in its new state, and follows with its batch.
    pub(super) fn tally(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some(batch) = job.record.request.batch.clone() else { return };
        let (number, status) = (job.record.number, job.status());
        let before = job.tallied.replace(status);
        if before != Some(status) {
            self.batches.tally(&batch, number, before, Some(status));
            self.review_batch(&batch);
        }
    }

    /// Brings state and end of life in line with the requests.
    fn review_batch(&mut self, id: &str) {
        let Ok(batch) = self.batches.get(id) else { return };
        let BatchRecord { id, state, expires, .. } = &batch.record;
        let (id, state, is_over) = (Arc::clone(id), *state, !batch.is_active());
        let is_settled = is_over == expires.is_some() && state != BatchState::Cancelling;
        if state == BatchState::Draft || is_settled {
            return;
        }
        if is_over && state == BatchState::Cancelling {
            self.set_batch_state(&id, BatchState::Cancelled);
        }
        let retention = self.limits.batch_retention;
        self.batches.set_expires(&id, is_over.then_some(self.now + retention));
        self.journal.batch_touched(&id);
    }

    /// Deletes batches whose life is over, with their requests, up to a bound.
    pub(super) fn expire_batches(&mut self, now: Timestamp) {
        while let Some((_, id)) = self.batches.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            let members: Vec<_> = self.members(&id).take(MAX_DUE).collect();
            for job in members {
                self.totals.expired += u64::from(self.jobs.get(&job).is_some_and(|job| !job.status().is_terminal()));
                self.forget(&job);
            }
            if let Some(batch) = self.batches.by_id.get_mut(&id).filter(|batch| batch.counts.total() > 0) {
                batch.is_over = true;
                return;
            }
            self.batches.set_expires(&id, None);
            if let Some(batch) = self.batches.by_id.remove(&id) {
                self.batches.by_age.remove(&batch.record.number);
                self.journal.batch_gone(batch.record.number);
            }
        }
    }

    /// The batches that have not ended.
    pub(super) fn active_batches(&self) -> usize {
        self.batches.by_id.values().filter(|batch| batch.is_active()).count()
    }

    fn draft(&self, id: &str) -> Result<&Batch, StoreError> {
        let batch = self.batches.get(id)?;
        match batch.record.state {
            BatchState::Draft => Ok(batch),
            state => Err(StoreError::BatchState(state)),
        }
    }

    fn members(&self, id: &str) -> impl Iterator<Item = JobId> {
        let members = self.batches.by_id.get(id).map(|batch| batch.members.iter());
        members.into_iter().flatten().filter_map(move |number| self.by_age.get(number)).cloned()
    }

    fn unfinished_members(&self, id: &str) -> Vec<JobId> {
        let is_unfinished = |id: &JobId| self.jobs.get(id).is_some_and(|job| !job.status().is_terminal());
        self.members(id).filter(is_unfinished).collect()
    }

    fn set_batch_state(&mut self, id: &BatchId, state: BatchState) {
        if let Some(batch) = self.batches.by_id.get_mut(id) {
            batch.record.state = state;
        }
        self.batches.set_expires(id, None);
        self.journal.batch_touched(id);
    }

    /// Whether a batch with `members` may have `more`. Batches get at most half of the room for jobs: their results are kept for days,
    /// and must not keep other jobs out.
    fn check_batch_room(&self, members: usize, more: usize) -> Result<(), StoreError> {
        let max = self.limits.max_batch_requests;
        if members + more > max {
            return Err(StoreError::BatchTooLarge(max));
        }
        let (bytes, batched) =
            (self.size.bytes + self.elsewhere.bytes, self.batches.jobs + self.elsewhere.jobs_of_batches);
        let is_full = self.is_full() || bytes >= self.limits.max_bytes / 2;
        if more > 0 && (is_full || batched + more > self.limits.max_jobs / 2) {
            return Err(StoreError::QueueFull);
        }
        Ok(())
    }

    fn insert_members(&mut self, now: Timestamp, id: &BatchId, jobs: Vec<NewJob<P>>) {
        self.journal.batch_touched(id);
        for NewJob { id: job, mut request } in jobs {
            request.batch = Some(Arc::clone(id));
            request.policy.low_priority = true;
            request.retention = self.limits.batch_retention;
            self.insert(now, NewJob { id: job, request });
        }
    }
}

#[cfg(test)]
mod tests;
