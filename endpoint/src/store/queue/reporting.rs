//! Webhooks: when the end of a job is to be reported, and what was given up.

use std::sync::Arc;

use super::{Effect, Queue};
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::job::{Job, Record, Report};
use crate::store::payload::Content;
use crate::store::request::JobId;
use crate::store::status::Status;
use crate::store::views::{GivenUp, Page, Webhook};
use crate::store::webhook_queue::WebhookEnd;

impl<P: Content> Queue<P> {
    /// The delivery for a finished job that is to be reported. `None` once that has ended, or when the job runs again.
    #[must_use]
    pub fn webhook(&self, id: &str) -> Option<Webhook<P>> {
        let job = self.jobs.get(id)?;
        let Record { request, notices, .. } = &job.record;
        let url = request.webhook.clone()?;
        let is_due = matches!(notices.report, Report::Due { .. });
        is_due.then(|| Webhook { url, job: job.view(), request: request.clone(), end_number: end_number(job) })
    }

    /// Notes how the delivery of one end of a job has ended. A job that runs again since then has another end.
    pub fn webhook_ended(&mut self, now: Timestamp, id: &str, end_number_of_it: u64, end: WebhookEnd) {
        let limits = self.limits;
        let Some(job) = self.jobs.get_mut(id) else { return };
        if end_number(job) != end_number_of_it || !matches!(job.record.notices.report, Report::Due { .. }) {
            return;
        }
        job.record.notices.report = match end {
            WebhookEnd::Delivered => Report::None,
            WebhookEnd::GivenUp(reason) => Report::GivenUp { at: now, until: now + limits.given_up_retention, reason },
        };
        let id = Arc::clone(&job.record.id);
        self.journal.touched(&id);
        self.settle(&id);
        while self.given_up.len() > limits.max_given_up && self.let_go_given_up(now) {}
    }

    /// The webhooks that were given up, those of the newest jobs first.
    #[must_use]
    pub fn given_up(&self, offset: usize, limit: usize) -> Page<GivenUp> {
        let entry = |number: &u64| {
            let record = &self.jobs.get(self.by_age.get(number)?)?.record;
            let Report::GivenUp { at, reason, .. } = &record.notices.report else { return None };
            let url = record.request.webhook.clone()?;
            Some(GivenUp {
                job: Arc::clone(&record.id),
                status: record.status(),
                url,
                reason: Arc::clone(reason),
                at: *at,
            })
        };
        let entries = self.given_up.iter().rev().skip(offset).take(limit).filter_map(entry).collect();
        Page { entries, total: self.given_up.len() }
    }

    /// Makes a webhook due again that was given up.
    ///
    /// # Errors
    /// When the job is unknown, or none of it was given up.
    pub fn resend_webhook(&mut self, now: Timestamp, id: &str) -> Result<(), StoreError> {
        let job = self.jobs.get(id).ok_or(StoreError::JobNotFound)?;
        if !matches!(job.record.notices.report, Report::GivenUp { .. }) {
            return Err(StoreError::NothingToResend);
        }
        let id = Arc::clone(&job.record.id);
        self.report(now, &id);
        self.changed(&id);
        Ok(())
    }

    /// Makes all of them due again; returns the jobs.
    pub fn resend_webhooks(&mut self, now: Timestamp) -> Vec<JobId> {
        let ids: Vec<_> = self.given_up.iter().filter_map(|number| self.by_age.get(number)).cloned().collect();
        for id in &ids {
            self.report(now, id);
            self.changed(id);
        }
        ids
    }

    /// Whether an end in this state is to be reported.
    pub(super) fn is_reported(&self, job: &Job<P>, status: Status) -> bool {
        job.record.request.wants_report() && (status != Status::Cancelled || self.limits.report_cancelled)
    }

    /// Makes the report of a job's end due.
    pub(super) fn report(&mut self, now: Timestamp, id: &JobId) {
        let until = now + self.limits.report_hold;
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some(url) = job.record.request.webhook.clone() else { return };
        job.record.notices.report = Report::Due { until };
        let end_number = end_number(job);
        self.effects.push(Effect::WebhookDue { job: Arc::clone(id), url, end_number });
    }

    /// Stops keeping the oldest job that is kept only because its webhook was given up. Returns whether there was one.
    pub(super) fn let_go_given_up(&mut self, now: Timestamp) -> bool {
        let Some(id) = self.given_up.first().and_then(|number| self.by_age.get(number)).cloned() else { return false };
        self.let_go(now, &id);
        true
    }

    /// Stops keeping this job if it is kept only because its webhook was given up.
    pub(crate) fn let_go(&mut self, now: Timestamp, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.record.is_given_up()) else { return };
        job.record.notices.report = Report::None;
        self.journal.touched(id);
        self.settle(id);
        if self.jobs.get(id).is_some_and(|job| job.deadline() <= now) {
            self.forget(id);
        }
    }
}

/// Each submission and each `/retry` has a position of its own.
fn end_number<P>(job: &Job<P>) -> u64 {
    job.record.position.number
}
