//! What a durable store must write down after each operation, and how a queue is rebuilt from it.

use std::sync::Arc;
use std::time::Duration;

use super::{Effect, Queue};
use crate::store::content::{Content, Filed, Part};
use crate::store::inspect::History;
use crate::store::job::{Job, JobId, Payload, Place, Policy, Run, State, Timestamp};
use crate::store::limits::Limits;
use crate::store::size::Size;

/// Notes of what changed since the last [`Queue::take_changes`]. Off unless asked for: in memory nobody reads them.
#[derive(Debug, Default)]
pub(super) struct Journal {
    enabled: bool,
    notes: Vec<Note>,
}

#[derive(Debug)]
enum Note {
    Touched(JobId),
    Chunk { job: u64, number: u64, item: Payload },
    ChunksGone { job: u64 },
    Gone { job: u64 },
}

impl Journal {
    fn note(&mut self, note: impl FnOnce() -> Note) {
        if self.enabled {
            self.notes.push(note());
        }
    }

    pub(super) fn touched(&mut self, id: &JobId) {
        let is_last = matches!(self.notes.last(), Some(Note::Touched(last)) if Arc::ptr_eq(last, id));
        if !is_last {
            self.note(|| Note::Touched(Arc::clone(id)));
        }
    }

    /// To be called before the item is added.
    pub(super) fn chunk<P>(&mut self, job: &Job<P>, item: &Payload) {
        self.note(|| Note::Chunk { job: job.number, number: job.next_chunk, item: Arc::clone(item) });
    }

    /// Read or dropped: every item so far.
    pub(super) fn chunks_gone<P>(&mut self, job: &Job<P>) {
        if job.next_chunk > 0 {
            self.note(|| Note::ChunksGone { job: job.number });
        }
    }

    pub(super) fn gone<P>(&mut self, job: &Job<P>) {
        self.note(|| Note::Gone { job: job.number });
    }
}

/// Everything that one operation changed. To be written in one transaction.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) counters: Counters,
    pub(crate) list: Vec<Change>,
}

/// One change. Jobs are named by their number.
#[derive(Debug)]
pub(crate) enum Change {
    /// The job is now like this.
    Job(Box<Row>),
    /// A stream item was added.
    Chunk { job: u64, number: u64, item: Payload },
    /// All stream items so far were read or dropped.
    ChunksGone { job: u64 },
    /// The record was deleted.
    Gone { job: u64 },
}

/// The numbers of an endpoint that outlive its jobs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// The last number given to a job or to a place in the queue.
    pub(crate) last_number: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
}

/// A job as it is kept on disk. Payloads are there only when they are new.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) id: JobId,
    pub(crate) place: Place,
    pub(crate) state: State,
    pub(crate) submitted: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) retention: Duration,
    pub(crate) execution_timeout: Option<Duration>,
    pub(crate) webhook: Option<String>,
    pub(crate) webhook_due: bool,
    pub(crate) traceparent: Option<Arc<str>>,
    pub(crate) attempt: u32,
    pub(crate) retries: u32,
    pub(crate) delay: Option<Duration>,
    pub(crate) execution: Option<Duration>,
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) error: Option<String>,
    pub(crate) cost: Option<Payload>,
    pub(crate) cancel_told: bool,
    pub(crate) input_bytes: usize,
    pub(crate) s3_config_bytes: Option<usize>,
    pub(crate) output_bytes: Option<usize>,
    pub(crate) payloads: Vec<(Part, Payload)>,
}

fn row<P: Content>(id: &JobId, job: &mut Job<P>) -> Row {
    let number = job.number;
    let mut payloads = Vec::new();
    let mut hand_over = |part, content: &mut P| {
        payloads.extend(content.hand_over(part, number).map(|payload| (part, payload)));
        content.bytes()
    };
    let input_bytes = hand_over(Part::Input, &mut job.input);
    let s3_config_bytes = job.s3_config.as_mut().map(|content| hand_over(Part::S3Config, content));
    let output_bytes = job.output.as_mut().map(|content| hand_over(Part::Output, content));
    Row {
        number,
        id: Arc::clone(id),
        place: job.place,
        state: job.state.clone(),
        submitted: job.submitted,
        expires: job.expires,
        retention: job.retention,
        execution_timeout: job.policy.execution_timeout,
        webhook: job.webhook.clone(),
        webhook_due: job.webhook_due,
        traceparent: job.traceparent.clone(),
        attempt: job.attempt,
        retries: job.retries,
        delay: job.delay,
        execution: job.execution,
        worker: job.worker.clone(),
        error: job.error.clone(),
        cost: job.cost.clone(),
        cancel_told: job.cancel_told,
        input_bytes,
        s3_config_bytes,
        output_bytes,
        payloads,
    }
}

impl<P: Content> Queue<P> {
    /// An empty queue that notes its changes for [`take_changes`](Self::take_changes).
    #[must_use]
    pub(crate) fn journaled(limits: Limits) -> Self {
        Self { journal: Journal { enabled: true, notes: Vec::new() }, ..Self::new(limits) }
    }

    /// What changed since the last call, in order.
    pub(crate) fn take_changes(&mut self) -> Option<Changes> {
        if self.journal.notes.is_empty() {
            return None;
        }
        let notes = std::mem::take(&mut self.journal.notes);
        let mut list = Vec::with_capacity(notes.len());
        for note in notes {
            list.push(match note {
                Note::Touched(id) => match self.jobs.get_mut(&id) {
                    Some(job) => Change::Job(Box::new(row(&id, job))),
                    None => continue,
                },
                Note::Chunk { job, number, item } => Change::Chunk { job, number, item },
                Note::ChunksGone { job } => Change::ChunksGone { job },
                Note::Gone { job } => Change::Gone { job },
            });
        }
        Some(Changes { counters: self.counters(), list })
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { last_number: self.next_place, completed: self.completed, failed: self.failed, retried: self.retried }
    }
}

impl Queue<Filed> {
    /// Sets the counters of a queue that is being rebuilt.
    pub(crate) fn restore_counters(&mut self, counters: Counters) {
        self.next_place = counters.last_number;
        self.completed = counters.completed;
        self.failed = counters.failed;
        self.retried = counters.retried;
    }

    /// Puts a job back to where it was. Bounds are not applied: the job was accepted.
    pub(crate) fn restore(&mut self, now: Timestamp, row: Row, chunks: Vec<(u64, Payload)>) {
        let Row { number, id, place, .. } = row;
        let stored = |part, bytes| Filed::Stored { number, part, bytes };
        let mut state = row.state;
        match &mut state {
            State::Queued(_) => {
                self.waiting.insert(place, Arc::clone(&id));
            }
            State::Running(run) => self.restore_run(now, run, &id),
            State::Finished { .. } => {}
        }
        let mut job = Job {
            number,
            input: stored(Part::Input, row.input_bytes),
            s3_config: row.s3_config_bytes.map(|bytes| stored(Part::S3Config, bytes)),
            webhook: row.webhook,
            webhook_due: row.webhook_due,
            traceparent: row.traceparent,
            policy: Policy {
                execution_timeout: row.execution_timeout,
                ttl: row.expires.saturating_sub(row.submitted),
                low_priority: place.low_priority,
            },
            retention: row.retention,
            submitted: row.submitted,
            expires: row.expires,
            place,
            state,
            attempt: row.attempt,
            retries: row.retries,
            delay: row.delay,
            execution: row.execution,
            worker: row.worker,
            output: row.output_bytes.map(|bytes| stored(Part::Output, bytes)),
            error: row.error,
            cost: row.cost,
            chunk_bytes: chunks.iter().map(|(_, item)| item.get().len()).sum(),
            next_chunk: chunks.last().map_or(0, |(number, _)| number + 1),
            chunks: chunks.into_iter().map(|(_, item)| item).collect(),
            cancel_told: row.cancel_told,
            armed: row.submitted,
            counted: Size::default(),
            history: History::default(),
        };
        job.recall();
        if job.webhook_due {
            self.effects.push(Effect::WebhookDue(Arc::clone(&id)));
        }
        self.by_age.insert(number, Arc::clone(&id));
        self.jobs.insert(Arc::clone(&id), Box::new(job));
        self.settle(&id);
    }

    /// Nobody could report while the endpoint was away: the lease starts afresh, and a result that was finished in
    /// time gets as long as a lease to arrive.
    fn restore_run(&mut self, now: Timestamp, run: &mut Run, id: &JobId) {
        let fresh = now + self.limits.lease;
        let limits = self.limits;
        for worker in [&run.poller, &run.worker] {
            self.workers.contact(now, worker, &limits);
        }
        if run.lease.is_some() {
            self.workers.expect_heartbeats(&run.worker);
            run.lease = Some(fresh);
        }
        run.execution_deadline = run.execution_deadline.max(fresh);
        self.workers.hold(&run.worker, id);
        self.in_progress += 1;
    }
}
