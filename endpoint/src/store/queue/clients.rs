//! What clients ask for.

use std::sync::Arc;

use super::Queue;
use super::transitions::End;
use crate::store::batch::BatchState;
use crate::store::clock::Timestamp;
use crate::store::ending::Ending;
use crate::store::error::StoreError;
use crate::store::job::{Handovers, Job, Notices, Position, Record, Report, State};
use crate::store::limits::Limits;
use crate::store::payload::{Content, Payload};
use crate::store::request::{JobId, NewJob};
use crate::store::status::Status;
use crate::store::stream::Stream;
use crate::store::views::{Attempt, JobView};

/// Records that are looked at to make room for one job.
const MAX_LOOKED_AT: usize = 1000;

impl<P: Content> Queue<P> {
    /// Adds a job to the end of the queue. A submission that repeats an earlier one adds none, and returns the job of that one.
    ///
    /// # Errors
    /// When the queue is full, or the key of the submission was used for another one.
    pub fn submit(&mut self, now: Timestamp, new: NewJob<P>) -> Result<JobView<P>, StoreError> {
        if let Some(job) = self.submitted_before(&new.request)? {
            return Ok(job);
        }
        self.check_queued()?;
        while self.is_full() {
            if !self.let_go_given_up(now) && !self.make_room() {
                return Err(StoreError::QueueFull);
            }
        }
        if self.jobs.contains_key(&new.id) {
            return Err(StoreError::DuplicateJob);
        }
        let NewJob { id, mut request } = new;
        request.retention = self.limits.retention.unwrap_or(request.retention);
        self.keys.note(&request, &id);
        let (id, position) = self.insert(now, NewJob { id, request });
        self.enqueue(position, &id);
        self.view(&id).ok_or(StoreError::JobNotFound)
    }

    /// Adds a job that is not in the queue yet.
    pub(super) fn insert(&mut self, now: Timestamp, new: NewJob<P>) -> (JobId, Position) {
        let NewJob { id, request } = new;
        let position = self.new_position(request.policy.low_priority, &request.share);
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
            handovers: Handovers::default(),
        };
        let job = Job::new(record, Stream::default());
        self.by_age.insert(position.number, Arc::clone(&id));
        self.jobs.insert(Arc::clone(&id), Box::new(job));
        self.settle(&id);
        self.journal.touched(&id);
        self.totals.in_queue += 1;
        (id, position)
    }

    pub(super) fn is_full(&self) -> bool {
        let Limits { max_jobs, max_bytes, max_memory_bytes, .. } = self.limits;
        let elsewhere = self.elsewhere;
        self.jobs.len() + elsewhere.jobs >= max_jobs
            || self.size.bytes + elsewhere.bytes >= max_bytes
            || self.size.memory >= max_memory_bytes
    }

    /// Forgets the oldest results when they are kept only because the operator wants that; returns whether that was enough.
    fn make_room(&mut self) -> bool {
        if self.limits.retention.is_none() {
            return false;
        }
        let is_kept = |id: &&JobId| {
            let is_over = |job: &Job<P>| {
                let is_reported = !matches!(job.record.notices.report, Report::Due { .. });
                let is_kept_for_others = !is_reported || job.record.is_cancelled_elsewhere();
                job.status().is_terminal() && !is_kept_for_others && job.record.request.batch.is_none()
            };
            self.jobs.get(*id).is_some_and(|job| is_over(job))
        };
        let nearest = self.deadlines.iter().map(|(_, id)| id).take(MAX_LOOKED_AT);
        for id in nearest.filter(is_kept).cloned().collect::<Vec<_>>() {
            if !self.is_full() {
                break;
            }
            self.forget(&id);
        }
        !self.is_full()
    }

    /// Requests of batches have limits of their own, and neither count nor are refused here.
    fn check_queued(&self) -> Result<(), StoreError> {
        match self.limits.max_queued {
            Some(max) if self.waiting.without_batches() + self.elsewhere.waiting >= max => {
                Err(StoreError::TooManyQueued(max))
            }
            _ => Ok(()),
        }
    }

    /// The job as readers see it.
    #[must_use]
    pub fn view(&self, id: &str) -> Option<JobView<P>> {
        self.jobs.get(id).map(|job| job.view())
    }

    /// Shortens the remaining life of a finished job's record.
    pub fn shorten(&mut self, now: Timestamp, id: &str, ttl: Timestamp) {
        // The results of a batch are kept as long as the batch.
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.record.request.batch.is_none()) else { return };
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
    /// When the job is unknown, or neither FAILED nor TIMED_OUT, or as many jobs wait as may, or its batch was cancelled.
    pub fn retry(&mut self, now: Timestamp, id: &str) -> Result<JobView<P>, StoreError> {
        let job = self.jobs.get(id).ok_or(StoreError::JobNotFound)?;
        let status = job.status();
        if !matches!(status, Status::Failed | Status::TimedOut) {
            return Err(StoreError::NotRetryable(status));
        }
        let (id, request) = (Arc::clone(&job.record.id), &job.record.request);
        let (low_priority, share) = (request.policy.low_priority, request.share.clone());
        match request.batch.as_ref().map(|batch| self.batches.state_of(batch)) {
            None => self.check_queued()?,
            Some(Some(BatchState::Cancelling | BatchState::Cancelled)) => return Err(StoreError::BatchCancelled),
            Some(_) => {}
        }
        let position = self.new_position(low_priority, &share);
        let job = self.jobs.get_mut(&id).ok_or(StoreError::JobNotFound)?;
        let record = &mut job.record;
        (record.position, record.state, record.submitted) = (position, State::Queued, now);
        // The life of its record is counted from its submission.
        record.expires = now + record.request.policy.ttl;
        record.notices.report = Report::None;
        record.handovers.since = None;
        (record.attempt, record.ending) = (Attempt::default(), Ending::default());
        self.journal.stream_items_gone(job);
        job.stream.drain();
        self.enqueue(position, &id);
        self.totals.in_queue += 1;
        self.changed(&id);
        self.view(&id).ok_or(StoreError::JobNotFound)
    }

    /// Cancels jobs that no worker has taken yet, at most `max`; returns how many. Those that wait at another endpoint are among them.
    pub fn purge(&mut self, now: Timestamp, max: usize) -> usize {
        let is_untaken = |id: &&_| self.jobs.get(*id).is_some_and(|job| job.status() == Status::InQueue);
        let untaken = self.waiting.values().chain(self.waiting_elsewhere()).filter(is_untaken);
        let untaken: Vec<_> = untaken.take(max).cloned().collect();
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
}
