//! A queue that holds what one unit of work needs, out of a database that several processes share: the rows that it locked go in, the
//! state machine decides, and what changed goes back. Nothing is renewed or counted anew when a row goes in.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::transitions::Lists;
use super::waiting::Entry;
use super::{KeptBatch, Queue, Turn};
use crate::store::batch::{BatchId, BatchState};
use crate::store::clock::Timestamp;
use crate::store::counts::Totals;
use crate::store::history::History;
use crate::store::job::{Job, Record, Report, State};
use crate::store::limits::Limits;
use crate::store::model::Model;
use crate::store::payload::{Content, Filed, Payload};
use crate::store::request::{Digest, JobId};
use crate::store::status::Status;
use crate::store::stream::{Stream, StreamLeft};
use crate::store::workers::{KeptWorker, OpenPolls};

/// What counts against the bounds of an endpoint and is not in the queue at hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) jobs: usize,
    /// Those that are not requests of batches.
    pub(crate) waiting: usize,
    pub(crate) bytes: usize,
    pub(crate) streamed: usize,
    /// Batches that have not ended.
    pub(crate) batches: usize,
    /// The jobs of all batches.
    pub(crate) jobs_of_batches: usize,
}

/// What a unit of work has changed in the numbers of an endpoint; before and after it: what the queue at hand holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) jobs: usize,
    pub(crate) bytes: usize,
    pub(crate) streamed: usize,
    pub(crate) in_queue: usize,
    pub(crate) in_progress: usize,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    /// Jobs that failed by a mistake of their caller.
    pub(crate) mistakes: u64,
    /// Jobs that exceeded their execution timeout.
    pub(crate) timeouts: u64,
    pub(crate) paused: bool,
    /// The latest rounds that workers have got jobs of; with normal and with low priority.
    pub(crate) served: [u64; 2],
}

/// A job as a database keeps it.
#[derive(Debug)]
pub(crate) struct KeptJob {
    pub(crate) number: u64,
    /// JSON, read by this module only.
    pub(crate) record: String,
    /// What a database sorts, selects and counts by.
    pub(crate) keys: Keys,
}

/// The parts of a job by which rows are found.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) id: JobId,
    pub(crate) status: Status,
    pub(crate) waiting: bool,
    pub(crate) untaken: bool,
    pub(crate) low_priority: bool,
    pub(crate) round: u64,
    pub(crate) place: u64,
    pub(crate) share: Option<Arc<str>>,
    pub(crate) submitted: Timestamp,
    /// How long it may run.
    pub(crate) run_time: Timestamp,
    pub(crate) holder: Option<Arc<str>>,
    /// When something must happen to it without any request.
    pub(crate) due: Timestamp,
    pub(crate) webhook_due: bool,
    pub(crate) given_up: bool,
    pub(crate) cancelled_elsewhere: bool,
    /// The key of its submission.
    pub(crate) idempotency: Option<Digest>,
    pub(crate) batch: Option<BatchId>,
}

#[derive(Serialize)]
struct Written<'a> {
    job: &'a Record<usize>,
    history: &'a History,
}

#[derive(Deserialize)]
struct Read {
    job: Record<usize>,
    #[serde(default)]
    history: History,
}

/// The record of a job as a database has it.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_record(text: &str) -> serde_json::Result<Record<usize>> {
    Ok(serde_json::from_str::<Read>(text)?.job)
}

impl Queue<Filed> {
    /// An empty queue that notes every change, renewed leases included.
    pub(crate) fn shared(limits: Limits, now: Timestamp) -> Self {
        let mut queue = Self { now, ..Self::journaled(limits) };
        queue.journal.note_renewals();
        queue
    }

    /// Puts a job in as it was left, without the items of its stream; returns the names under which workers hold it.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn load_job(&mut self, record: &str) -> serde_json::Result<Vec<Arc<str>>> {
        let Read { job: record, history } = serde_json::from_str(record)?;
        let (id, number) = (Arc::clone(&record.id), record.number);
        if self.jobs.contains_key(&id) {
            return Ok(Vec::new());
        }
        let record = record.map(|part, bytes| Filed::Stored { number, part, bytes });
        let mut holders = Vec::new();
        match &record.state {
            State::Queued => self.waiting.insert(record.position, Entry::new(&record)),
            State::Running(run) => {
                self.in_progress += 1;
                holders = vec![Arc::clone(&run.worker), Arc::clone(&run.poller)];
            }
            State::Finished { .. } => {}
        }
        self.keys.note(&record.request, &id);
        self.list_in(number, Lists::of(&record));
        let mut job = Job::new(record, Stream::default());
        job.history = history;
        job.armed = job.deadline();
        job.counted = job.size();
        self.size += job.counted;
        self.deadlines.insert((job.armed, Arc::clone(&id)));
        self.by_age.insert(number, Arc::clone(&id));
        self.jobs.insert(id, Box::new(job));
        Ok(holders)
    }

    /// Where the stream of a job stands that was put in.
    pub(crate) fn load_stream(&mut self, number: u64, left: StreamLeft) {
        let Some(job) = self.by_age.get(&number).and_then(|id| self.jobs.get_mut(id)) else { return };
        job.stream = Stream::left(left);
        self.size -= job.counted;
        job.counted = job.size();
        self.size += job.counted;
    }

    /// Where the stream of a job stands.
    pub(crate) fn kept_stream(&self, number: u64) -> Option<StreamLeft> {
        Some(self.jobs.get(self.by_age.get(&number)?)?.stream.standing())
    }

    /// How far a share of the queue is, and the latest round that a worker has got a job of.
    pub(crate) fn note_turns(&mut self, low_priority: bool, share: Option<Arc<str>>, last: u64, served: u64) {
        self.waiting.note_turns(low_priority, share, last, served);
    }

    /// How far the shares of the queue are.
    pub(crate) fn turns(&self) -> Vec<Turn> {
        self.waiting.turns()
    }

    /// The unread stream items of a job that was put in.
    pub(crate) fn load_items(&mut self, number: u64, items: Vec<Payload>) {
        if let Some(job) = self.by_age.get(&number).and_then(|id| self.jobs.get_mut(id)) {
            job.stream.load(items);
        }
    }

    /// The batches of the jobs that were put in.
    pub(crate) fn named_batches(&self) -> BTreeSet<BatchId> {
        self.jobs.values().filter_map(|job| job.record.request.batch.clone()).collect()
    }

    /// Puts the batches of the jobs in as they were left, once the jobs are there.
    pub(crate) fn load_batches(&mut self, batches: impl IntoIterator<Item = KeptBatch>) {
        batches.into_iter().for_each(|batch| self.batches.load(batch));
        for job in self.jobs.values_mut() {
            let Some(id) = &job.record.request.batch else { continue };
            let Some(batch) = self.batches.by_id.get_mut(id) else { continue };
            batch.members.insert(job.record.number);
            job.tallied = Some(job.status());
            if batch.record.state == BatchState::Draft {
                self.waiting.remove(&job.record.position);
            }
        }
    }

    /// Whether all jobs of a batch are in here.
    pub(crate) fn has_whole_batch(&self, id: &str) -> bool {
        self.batches.by_id.get(id).is_none_or(|batch| batch.members.len() == batch.counts.total())
    }

    /// Batches as they are to be kept, by their numbers.
    pub(crate) fn kept_batches(&self) -> impl Iterator<Item = (u64, KeptBatch)> {
        self.batches.kept()
    }

    /// What of the bounds on batches is taken in here: batches that have not ended, and jobs of batches.
    pub(crate) fn batch_usage(&self) -> (usize, usize) {
        (self.active_batches(), self.batches.jobs)
    }

    /// The jobs of batches that wait in here.
    pub(crate) fn waiting_of_batches(&self) -> usize {
        let waits = |job: &Job<Filed>| {
            let batch = job.record.request.batch.as_deref();
            let is_draft = batch.and_then(|batch| self.batches.state_of(batch)) == Some(BatchState::Draft);
            batch.is_some() && !is_draft && matches!(job.record.state, State::Queued)
        };
        self.jobs.values().filter(|job| waits(job)).count()
    }

    /// Puts a worker in as it was left, with the ids of all jobs that it holds.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn load_worker(
        &mut self,
        id: &Arc<str>,
        record: &str,
        polls: OpenPolls,
        held: HashSet<JobId>,
    ) -> serde_json::Result<()> {
        self.workers.load(id, record, polls, held)
    }

    /// Whether a request of this process would be admitted without a change worth keeping.
    pub(crate) fn admits_quietly(&self, now: Timestamp, id: &str, instance: Option<&str>) -> bool {
        self.workers.admits_quietly(now, id, instance)
    }

    /// Of the jobs that this worker holds, those that were not put in.
    pub(crate) fn held_elsewhere(&self, worker: &str) -> Vec<JobId> {
        let held = self.workers.get(worker).into_iter().flat_map(|worker| &worker.held);
        held.filter(|id| !self.jobs.contains_key(*id)).cloned().collect()
    }

    pub(crate) fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = elsewhere;
    }

    /// The numbers of the next jobs and positions.
    pub(crate) fn give_numbers(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.given_numbers.extend(numbers);
    }

    /// Notes that the endpoint is paused, or not.
    pub(crate) fn load_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// What runs the jobs, as the last one of these workers said that had something new to say.
    pub(crate) fn newest_model(&self) -> Option<Arc<Model>> {
        self.workers.newest_model()
    }

    /// Gives every job that a worker holds more time: nobody could report while the database was away.
    pub(crate) fn extend_leases(&mut self, gap: Timestamp) {
        let ids: Vec<_> = self.jobs.keys().cloned().collect();
        for id in ids {
            let Some(State::Running(run)) = self.jobs.get_mut(&id).map(|job| &mut job.record.state) else { continue };
            run.lease = run.lease.map(|lease| lease + gap);
            run.execution_deadline = run.execution_deadline.map(|deadline| deadline + gap);
            self.journal.touched(&id);
            self.settle(&id);
        }
    }

    /// What the queue holds now.
    pub(crate) fn contents(&self) -> Tally {
        Tally {
            jobs: self.jobs.len(),
            bytes: self.size.bytes,
            streamed: self.size.streamed,
            in_queue: self.waiting.len(),
            in_progress: self.in_progress,
            completed: self.completed,
            failed: self.failed,
            retried: self.retried,
            mistakes: self.totals.ends().mistakes,
            timeouts: self.totals.ends().timeouts,
            paused: self.paused,
            served: self.waiting.served(),
        }
    }

    /// Whether the record of a job has expired and is only not deleted yet.
    pub(crate) fn is_expired(&self, now: Timestamp, id: &str) -> bool {
        self.jobs.get(id).is_some_and(|job| match &job.record.state {
            State::Finished { .. } => job.deadline() <= now,
            // One that is to be reported ends as TIMED_OUT.
            State::Queued | State::Running(_) => job.record.expires <= now && !self.is_reported(job, Status::TimedOut),
        })
    }

    /// What this queue has counted.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// A job as it is to be kept; `None` when it is gone.
    ///
    /// # Errors
    /// Never, as far as is known: a record has no map with keys that JSON lacks.
    pub(crate) fn kept_job(&self, number: u64) -> serde_json::Result<Option<KeptJob>> {
        let Some(job) = self.by_age.get(&number).and_then(|id| self.jobs.get(id)) else { return Ok(None) };
        let record = job.record.clone().map(|_, content| content.bytes());
        let batch = record.request.batch.clone();
        let is_draft = batch.as_deref().and_then(|batch| self.batches.state_of(batch)) == Some(BatchState::Draft);
        let keys = Keys {
            id: Arc::clone(&record.id),
            status: job.status(),
            waiting: matches!(record.state, State::Queued) && !is_draft,
            untaken: record.attempt.retries == 0,
            low_priority: record.position.low_priority,
            round: record.position.round,
            place: record.position.number,
            share: record.request.share.clone(),
            submitted: record.submitted,
            run_time: record.request.policy.run_time(),
            holder: match &record.state {
                State::Running(run) => Some(Arc::clone(&run.worker)),
                State::Queued | State::Finished { .. } => None,
            },
            due: job.deadline(),
            webhook_due: matches!(record.notices.report, Report::Due { .. }),
            given_up: job.record.is_given_up(),
            cancelled_elsewhere: job.record.is_cancelled_elsewhere(),
            idempotency: record.request.idempotency.as_ref().map(|idempotency| idempotency.key),
            batch,
        };
        let record = serde_json::to_string(&Written { job: &record, history: &job.history })?;
        Ok(Some(KeptJob { number, record, keys }))
    }

    /// A worker as it is to be kept; `None` when it is forgotten.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub(crate) fn kept_worker(&self, id: &str) -> serde_json::Result<Option<KeptWorker>> {
        self.workers.kept(id)
    }
}
