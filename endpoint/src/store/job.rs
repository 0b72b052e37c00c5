//! One job: its record and its states.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ending::Ending;
use super::history::{History, Transition};
use super::payload::{Content, Part, Payload};
use super::request::{JobId, Request};
use super::size::Size;
use super::status::Status;
use super::stream::Stream;
use super::views::{Attempt, Handover, JobView};

/// A deadline far beyond every other one.
const NEVER: Timestamp = Duration::from_secs(1 << 36);

/// Where a job stands. Exactly one at any time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum State {
    Queued,
    Running(Run),
    Finished { status: Status, forget_at: Timestamp },
}

/// Order in the queue: low priority last, then by rounds (`queue/waiting.rs`), then first in, first out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) low_priority: bool,
    /// Not kept in a file: rounds are given anew to the jobs that wait when it is opened.
    pub(crate) round: u64,
    pub(crate) number: u64,
}

/// A job in the hands of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The name under which the job was taken; stop signals go there.
    pub(crate) poller: Arc<str>,
    /// The worker itself: differs from `poller` when that one polls under an unexpanded placeholder.
    pub(crate) worker: Arc<str>,
    pub(crate) since: Timestamp,
    /// `None` while the job waits at another endpoint: its time to run has not begun.
    pub(crate) execution_deadline: Option<Timestamp>,
    /// `None` while the worker has never sent a heartbeat.
    pub(crate) lease: Option<Timestamp>,
    /// Its id at the endpoint that runs it, once that has accepted it.
    pub(crate) far_id: Option<Arc<str>>,
}

impl Run {
    /// Whether the job waits in the queue of another endpoint.
    pub(crate) fn waits_elsewhere(&self) -> bool {
        self.execution_deadline.is_none()
    }
}

/// How far the report of a job's end to its webhook is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// There is nothing to deliver: no webhook, no end yet, or it was delivered.
    #[default]
    None,
    /// It is being delivered. The record is kept for it, at most until then.
    Due { until: Timestamp },
    /// It was given up. The record is kept until then, so that it can be sent again.
    GivenUp { at: Timestamp, until: Timestamp, reason: Arc<str> },
}

impl Report {
    /// How long the record is kept for it.
    fn kept_until(&self) -> Timestamp {
        match self {
            Self::None => Timestamp::ZERO,
            Self::Due { until } | Self::GivenUp { until, .. } => *until,
        }
    }
}

/// What was passed on to the outside world, or still has to be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Notices {
    /// The webhook.
    pub(crate) report: Report,
    /// A stream reader has been sent the state CANCELLED.
    pub(crate) cancel_reported: bool,
}

/// What is known of a job at another endpoint, beside the run that it may have there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handovers {
    /// How many hand-overs are over: the other endpoint had accepted the job, and is not to run it any more. Until then all submissions
    /// are one.
    pub(crate) over: u32,
    /// When the present one was first tried.
    pub(crate) since: Option<Timestamp>,
    /// Its id there, while it still has to be cancelled there.
    pub(crate) cancel: Option<Arc<str>>,
}

impl Handovers {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The present one, which begins now at the latest.
    pub(crate) fn present(&self, now: Timestamp) -> Handover {
        Handover { number: self.over, since: self.since.unwrap_or(now) }
    }

    /// The job leaves the other endpoint before it has ended there.
    pub(crate) fn leave(&mut self, run: &Run) {
        if let Some(far_id) = &run.far_id {
            self.give_up(far_id);
        }
    }

    /// What the other endpoint has accepted under this id is to be cancelled there.
    pub(crate) fn give_up(&mut self, far_id: &Arc<str>) {
        self.over += 1;
        self.since = None;
        self.cancel = Some(Arc::clone(far_id));
    }
}

/// A job as it is kept, in memory and on disk. `P` is what stands for a payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record<P> {
    pub(crate) id: JobId,
    /// Order of submission, unique within the endpoint and never used again.
    pub(crate) number: u64,
    pub(crate) request: Request<P>,
    pub(crate) submitted: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) position: Position,
    pub(crate) state: State,
    pub(crate) attempt: Attempt,
    pub(crate) ending: Ending<P>,
    pub(crate) notices: Notices,
    #[serde(default, skip_serializing_if = "Handovers::is_none")]
    pub(crate) handovers: Handovers,
}

impl<P> Record<P> {
    /// The same with its payloads in another form.
    pub(crate) fn map<Q>(self, mut form: impl FnMut(Part, P) -> Q) -> Record<Q> {
        Record {
            id: self.id,
            number: self.number,
            request: self.request.map(&mut form),
            submitted: self.submitted,
            expires: self.expires,
            position: self.position,
            state: self.state,
            attempt: self.attempt,
            ending: self.ending.and_then(|output| Some(form(Part::Output, output))),
            notices: self.notices,
            handovers: self.handovers,
        }
    }
}

impl<P: Content> Record<P> {
    pub(crate) fn status(&self) -> Status {
        match &self.state {
            // Clients keep seeing IN_PROGRESS while a job waits for its retry.
            State::Queued if self.attempt.retries > 0 => Status::InProgress,
            State::Queued => Status::InQueue,
            State::Running(run) if run.waits_elsewhere() && self.attempt.retries == 0 => Status::InQueue,
            State::Running(_) => Status::InProgress,
            State::Finished { status, .. } => *status,
        }
    }

    /// Its webhook was given up.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.notices.report, Report::GivenUp { .. })
    }

    /// It still has to be cancelled at another endpoint.
    pub(crate) fn is_cancelled_elsewhere(&self) -> bool {
        self.handovers.cancel.is_some()
    }

    /// The job as readers see it.
    pub(crate) fn view(&self) -> JobView<P> {
        let Self { id, attempt, ending, .. } = self;
        JobView { id: Arc::clone(id), status: self.status(), attempt: attempt.clone(), ending: ending.clone() }
    }

    /// What is to be written down: the record with the length of each payload, and the payloads that are new.
    pub(crate) fn for_disk(&mut self) -> (Record<usize>, Vec<(Part, Payload)>) {
        let number = self.number;
        let payloads = self.request.payloads_mut().chain(self.ending.payloads_mut());
        let fresh = payloads.filter_map(|(part, content)| Some((part, content.hand_over(part, number)?))).collect();
        (self.clone().map(|_, content| content.bytes()), fresh)
    }
}

/// A job in the queue.
#[derive(Debug)]
pub(crate) struct Job<P> {
    pub(crate) record: Record<P>,
    pub(crate) stream: Stream,
    pub(crate) history: History,
    /// The entry of this job in the ordered deadlines.
    pub(crate) armed: Timestamp,
    /// This job in the queue's account.
    pub(crate) counted: Size,
    /// This job in the counts of its batch.
    pub(crate) tallied: Option<Status>,
    /// The position of its latest change in the sequence of all changes; 0 when it is on disk or nowhere.
    pub(crate) mark: u64,
}

impl<P: Content> Job<P> {
    /// A job that is not in the deadlines and the account yet.
    pub(crate) fn new(record: Record<P>, stream: Stream) -> Self {
        let armed = record.submitted;
        Self { record, stream, history: History::default(), armed, counted: Size::default(), tallied: None, mark: 0 }
    }

    pub(crate) fn status(&self) -> Status {
        self.record.status()
    }

    /// The next moment at which something must happen to this job without any request.
    pub(crate) fn deadline(&self) -> Timestamp {
        let expires = self.record.expires;
        let is_of_batch = self.record.request.batch.is_some();
        match &self.record.state {
            // The life of a batch's request begins when a worker takes it. Before and after that it is the life of the batch.
            State::Queued | State::Finished { .. } if is_of_batch => NEVER,
            State::Queued => expires,
            State::Running(run) => {
                [run.lease, run.execution_deadline].into_iter().flatten().fold(expires, Timestamp::min)
            }
            State::Finished { forget_at, .. } => {
                // What must be cancelled elsewhere lives there until then, too.
                let cancelled = if self.record.is_cancelled_elsewhere() { expires } else { Timestamp::ZERO };
                (*forget_at).min(expires).max(self.record.notices.report.kept_until()).max(cancelled)
            }
        }
    }

    /// When its latest attempt began, and when the job ended.
    pub(crate) fn times(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        match &self.record.state {
            State::Queued => (None, None),
            State::Running(run) => (Some(run.since), None),
            State::Finished { forget_at, .. } => {
                let ended = forget_at.saturating_sub(self.record.request.retention);
                (self.record.attempt.execution.map(|execution| ended.saturating_sub(execution)), Some(ended))
            }
        }
    }

    pub(crate) fn size(&self) -> Size {
        let Record { request, ending, .. } = &self.record;
        let streamed = self.stream.bytes();
        let kept = request.bytes_beside_payloads() + ending.bytes_beside_payloads() + streamed;
        let payloads = request.payloads().chain(&ending.output);
        let (bytes, memory) = payloads.fold((kept, kept), |(bytes, memory), payload| {
            (bytes + payload.bytes(), memory + payload.bytes_in_memory())
        });
        Size { bytes, memory, streamed }
    }

    /// Adds where the job stands now to its history.
    pub(crate) fn note(&mut self, at: Timestamp) {
        let (status, worker) = match &self.record.state {
            State::Queued => (Status::InQueue, None),
            State::Running(run) if run.waits_elsewhere() => (Status::InQueue, Some(Arc::clone(&run.worker))),
            State::Running(run) => (Status::InProgress, Some(Arc::clone(&run.worker))),
            State::Finished { status, .. } => (*status, None),
        };
        self.history.note(Transition { status, at, worker });
    }

    /// Rebuilds the history of a job that was read from disk, where only its last attempt is kept.
    pub(crate) fn recall(&mut self) {
        let submitted = self.record.submitted;
        let ended = match &self.record.state {
            State::Finished { forget_at, .. } => Some(forget_at.saturating_sub(self.record.request.retention)),
            State::Queued | State::Running(_) => None,
        };
        self.history.note(Transition { status: Status::InQueue, at: submitted, worker: None });
        let Attempt { execution, worker, .. } = &self.record.attempt;
        if let (Some(ended), Some(execution)) = (ended, execution) {
            let (at, worker) = (ended.saturating_sub(*execution), worker.clone());
            self.history.note(Transition { status: Status::InProgress, at, worker });
        }
        let at = match &self.record.state {
            State::Queued => submitted,
            State::Running(run) => run.since,
            State::Finished { .. } => ended.unwrap_or(submitted),
        };
        self.note(at);
    }

    pub(crate) fn view(&self) -> JobView<P> {
        self.record.view()
    }
}
