//! How a job ends.

use serde::{Deserialize, Serialize};

use super::payload::{Content, Part, Payload};

/// Why a job has no result whose life ended before it did.
pub(crate) const EXPIRED: &str = "the job has expired: its `ttl` was over before it ended";

/// What a worker has made of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ending<P = Payload> {
    /// The result, or what there is of it beside an error. Until the end: the latest progress update.
    pub output: Option<P>,
    /// Why the job failed.
    pub error: Option<String>,
    /// What the job has used up, as the worker reported it. Short.
    pub cost: Option<Payload>,
}

impl<P> Default for Ending<P> {
    fn default() -> Self {
        Self { output: None, error: None, cost: None }
    }
}

impl<P> Ending<P> {
    /// An ending with an error alone.
    pub(crate) fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }

    /// The same with its output in another form; without one when that form is `None`.
    pub(crate) fn and_then<Q>(self, form: impl FnOnce(P) -> Option<Q>) -> Ending<Q> {
        Ending { output: self.output.and_then(form), error: self.error, cost: self.cost }
    }

    pub(crate) fn payloads_mut(&mut self) -> impl Iterator<Item = (Part, &mut P)> {
        self.output.as_mut().map(|output| (Part::Output, output)).into_iter()
    }
}

impl<P: Content> Ending<P> {
    /// Bytes of what stays in memory, with a data file too.
    pub(crate) fn bytes_beside_payloads(&self) -> usize {
        self.error.as_ref().map_or(0, String::len) + self.cost.as_ref().map_or(0, Content::bytes)
    }
}

/// Why a worker reports a job as failed that it never began. RunPod's SDK 2.0 runs hooks before its first job, and takes jobs meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBegun {
    /// The worker was told to stop while it started.
    Stopped,
    /// The worker cannot start.
    StartFailed,
}

/// A mistake of the caller that a job fails by. Nothing is wrong with the worker then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerMistake {
    /// The input is not valid.
    Validation,
    /// The handler has no such model.
    ModelNotFound,
}

/// The final result that a worker reports.
#[derive(Debug, Clone)]
pub struct Outcome<P = Payload> {
    /// The result; the job failed if it has an error.
    pub ending: Ending<P>,
    /// The error is that the job has exceeded its execution timeout.
    pub timed_out: bool,
    /// The error is a mistake of the caller.
    pub mistake: Option<CallerMistake>,
    /// The worker asks to be replaced (`stopPod`).
    pub refresh: bool,
    /// The worker never began the job; `None` for a job that it ran.
    pub not_begun: Option<NotBegun>,
}

impl<P> Default for Outcome<P> {
    fn default() -> Self {
        Self { ending: Ending::default(), timed_out: false, mistake: None, refresh: false, not_begun: None }
    }
}

impl<P> Outcome<P> {
    /// A result.
    #[must_use]
    pub fn completed(output: Option<P>) -> Self {
        Self { ending: Ending { output, ..Ending::default() }, ..Self::default() }
    }

    /// An error.
    #[must_use]
    pub fn failed(error: impl Into<String>) -> Self {
        Self { ending: Ending::failed(error), ..Self::default() }
    }

    /// The same with its output in another form.
    pub(crate) fn map<Q>(self, form: impl FnOnce(P) -> Q) -> Outcome<Q> {
        let Self { ending, timed_out, mistake, refresh, not_begun } = self;
        Outcome { ending: ending.and_then(|output| Some(form(output))), timed_out, mistake, refresh, not_begun }
    }
}
