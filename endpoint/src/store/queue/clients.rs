//! What clients ask for.

use std::sync::Arc;

use super::Queue;
use super::transitions::End;
use crate::store::clock::Timestamp;
use crate::store::ending::Ending;
use crate::store::error::StoreError;
use crate::store::job::{Job, Notices, Record, State};
use crate::store::limits::Limits;
use crate::store::payload::{Content, Payload};
use crate::store::request::{JobId, NewJob};
use crate::store::status::Status;
use crate::store::stream::Stream;
use crate::store::views::{Attempt, JobView, Webhook};

impl<P: Content> Queue<P> {
    /// Adds a job to the end of the queue.
    ///
    /// # Errors
    /// When the queue is full.
    pub fn submit(&mut self, now: Timestamp, new: NewJob<P>) -> Result<JobView<P>, StoreError> {
        let Limits { max_jobs, max_bytes, max_memory_bytes, .. } = self.limits;
        let elsewhere = self.elsewhere;
        if self.jobs.len() + elsewhere.jobs >= max_jobs
            || self.size.bytes + elsewhere.bytes >= max_bytes
            || self.size.memory >= max_memory_bytes
        {
            return Err(StoreError::QueueFull);
        }
        let NewJob { id, request } = new;
        if self.jobs.contains_key(&id) {
            return Err(StoreError::DuplicateJob);
        }
        let position = self.new_position(request.policy.low_priority);
        let record = Record {
            id: Arc::clone(&id),
            number: position.number,
            submitted: now,
            expires: now + request.policy.ttl,
            request,
            position,
            state: State::Queued,
            attempt: Attempt::default(),
            ending: Ending::default(),
            notices: Notices::default(),
        };
        let job = Job::new(record, Stream::default());
        let view = job.view();
        self.by_age.insert(position.number, Arc::clone(&id));
        self.jobs.insert(Arc::clone(&id), Box::new(job));
        self.settle(&id);
        self.journal.touched(&id);
        self.enqueue(position, &id);
        self.totals.in_queue += 1;
        Ok(view)
    }

    /// The job as readers see it.
    #[must_use]
    pub fn view(&self, id: &str) -> Option<JobView<P>> {
        self.jobs.get(id).map(|job| job.view())
    }

    /// Shortens the remaining life of a finished job's record.
    pub fn shorten(&mut self, now: Timestamp, id: &str, ttl: Timestamp) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let State::Finished { forget_at, .. } = &mut job.record.state {
            *forget_at = (*forget_at).min(now + ttl);
            let id = Arc::clone(&job.record.id);
            self.journal.touched(&id);
            self.settle(&id);
        }
    }

    /// Whether [`drain`](Self::drain) would return something new.
    #[must_use]
    pub fn has_stream_news(&self, id: &str) -> bool {
        self.jobs.get(id).is_none_or(|job| !job.stream.is_empty() || job.status().is_terminal())
    }

    /// Removes and returns the unread stream items.
    ///
    /// # Errors
    /// When the job is unknown, or was cancelled and its reader has read that state: the official Python client does not
    /// take CANCELLED for an end and would ask for ever.
    pub fn drain(&mut self, id: &str) -> Result<(Status, Vec<Payload>), StoreError> {
        let job = self.jobs.get_mut(id).ok_or(StoreError::JobNotFound)?;
        let (id, status) = (Arc::clone(&job.record.id), job.status());
        let items = job.stream.drain();
        if !items.is_empty() {
            self.journal.stream_items_gone(job);
        }
        if status == Status::Cancelled && items.is_empty() {
            if job.record.notices.cancel_reported {
                return Err(StoreError::StreamEnded);
            }
            job.record.notices.cancel_reported = true;
            self.journal.touched(&id);
        }
        self.settle(&id);
        Ok((status, items))
    }

    /// Cancels a job. A finished one stays as it is.
    ///
    /// # Errors
    /// When the job is unknown.
    pub fn cancel(&mut self, now: Timestamp, id: &str) -> Result<JobView<P>, StoreError> {
        let job = self.jobs.get(id).ok_or(StoreError::JobNotFound)?;
        if !job.status().is_terminal() {
            let id = Arc::clone(&job.record.id);
            self.close(now, &id, End::of(Status::Cancelled));
        }
        self.view(id).ok_or(StoreError::JobNotFound)
    }

    /// Queues a failed job again, with the same id and input.
    ///
    /// # Errors
    /// When the job is unknown, or neither FAILED nor TIMED_OUT.
    pub fn retry(&mut self, now: Timestamp, id: &str) -> Result<JobView<P>, StoreError> {
        let job = self.jobs.get(id).ok_or(StoreError::JobNotFound)?;
        let status = job.status();
        if !matches!(status, Status::Failed | Status::TimedOut) {
            return Err(StoreError::NotRetryable(status));
        }
        let (id, low_priority) = (Arc::clone(&job.record.id), job.record.request.policy.low_priority);
        let position = self.new_position(low_priority);
        let job = self.jobs.get_mut(&id).ok_or(StoreError::JobNotFound)?;
        let record = &mut job.record;
        (record.position, record.state, record.submitted) = (position, State::Queued, now);
        record.notices.webhook_due = false;
        (record.attempt, record.ending) = (Attempt::default(), Ending::default());
        self.journal.stream_items_gone(job);
        job.stream.drain();
        self.enqueue(position, &id);
        self.totals.in_queue += 1;
        self.changed(&id);
        self.view(&id).ok_or(StoreError::JobNotFound)
    }

    /// Cancels jobs that no worker has taken yet, at most `max`; returns how many.
    pub fn purge(&mut self, now: Timestamp, max: usize) -> usize {
        let is_untaken = |id: &&_| self.jobs.get(*id).is_some_and(|job| job.record.attempt.retries == 0);
        let untaken: Vec<_> = self.waiting.values().filter(is_untaken).take(max).cloned().collect();
        for id in &untaken {
            self.close(now, id, End::of(Status::Cancelled));
        }
        untaken.len()
    }

    /// Unfinished jobs, the waiting ones first and in order; at most `max`.
    #[must_use]
    pub fn pending(&self, max: usize) -> Vec<JobId> {
        self.waiting.values().chain(self.workers.held()).take(max).cloned().collect()
    }

    /// The delivery for a finished job that asked for one. `None` once the record has expired or the job runs again.
    #[must_use]
    pub fn webhook(&self, id: &str) -> Option<Webhook<P>> {
        let job = self.jobs.get(id)?;
        let Record { request, position, .. } = &job.record;
        let url = request.webhook.clone()?;
        // Each submission and each `/retry` has a position of its own.
        let end_number = position.number;
        job.status().is_terminal().then(|| Webhook { url, job: job.view(), request: request.clone(), end_number })
    }

    /// Notes that a delivery has ended, with or without success. Until then it is due again after a restart.
    pub fn webhook_settled(&mut self, id: &str) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if std::mem::take(&mut job.record.notices.webhook_due) {
            let id = Arc::clone(&job.record.id);
            self.journal.touched(&id);
        }
    }
}
