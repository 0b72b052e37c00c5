//! The jobs that are not closed. What the rules ask about all of them is kept up to date with every change, so that the cost of
//! an event does not depend on the number of jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use super::job::{Job, JobState};
use crate::boundary::{JobId, ProcessId, Time};

/// Every job that is not closed, by its id.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    by_id: BTreeMap<JobId, Job>,
    index: Index,
}

/// What is known about all jobs without looking at them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    totals: JobTotals,
    /// When each job that has a deadline needs attention.
    deadlines: BTreeSet<(Time, JobId)>,
    /// How many jobs each process has and has not begun; no process without one.
    not_begun: BTreeMap<ProcessId, usize>,
}

/// The number of jobs that have something in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobTotals {
    /// They wait for a slot.
    pub queued: usize,
    /// They are in a slot.
    pub in_slots: usize,
    /// They wait to be decided after the exit of their process.
    pub undecided: usize,
    /// Their result is being delivered.
    pub delivering: usize,
    /// They may have crashed their process, and are not decided.
    pub suspects: usize,
    /// Suspects that are in a slot.
    pub suspects_in_slots: usize,
}

/// What the index knows about one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Indexed {
    state: JobState,
    runs_alone: bool,
    deadline: Option<Time>,
}

/// A job that may be changed. The index follows when the change is over.
#[derive(Debug)]
pub(crate) struct JobMut<'a> {
    job: &'a mut Job,
    index: &'a mut Index,
    before: Indexed,
}

impl Jobs {
    pub(crate) fn get(&self, id: &JobId) -> Option<&Job> {
        self.by_id.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &JobId) -> Option<JobMut<'_>> {
        let job = self.by_id.get_mut(id)?;
        let before = Indexed::of(job);
        Some(JobMut { job, index: &mut self.index, before })
    }

    /// Adds a job whose id is not held.
    pub(crate) fn insert(&mut self, job: Job) {
        let (id, indexed) = (job.id.clone(), Indexed::of(&job));
        if let Some(before) = self.by_id.insert(id.clone(), job) {
            self.index.remove(&id, Indexed::of(&before));
        }
        self.index.add(&id, indexed);
    }

    pub(crate) fn remove(&mut self, id: &JobId) -> Option<Job> {
        let job = self.by_id.remove(id)?;
        self.index.remove(id, Indexed::of(&job));
        Some(job)
    }

    pub(crate) fn contains(&self, id: &JobId) -> bool {
        self.by_id.contains_key(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All jobs, in order of their ids. For what happens rarely: the time that it takes grows with their number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.by_id.values()
    }

    /// The ids of all jobs, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &JobId> {
        self.by_id.keys()
    }

    pub(crate) fn totals(&self) -> JobTotals {
        self.index.totals
    }

    /// Whether the results of all jobs are decided.
    pub(crate) fn all_decided(&self) -> bool {
        self.index.totals.delivering == self.by_id.len()
    }

    /// How many jobs this process has and has not begun.
    pub(crate) fn not_begun(&self, process: ProcessId) -> usize {
        self.index.not_begun.get(&process).copied().unwrap_or(0)
    }

    /// The jobs whose deadline has come, the earliest first. No job is looked up if there is none, because every event asks.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = &Job> {
        let due = self.index.deadlines.iter().take_while(move |(deadline, _)| *deadline <= now);
        due.filter_map(|(_, id)| self.by_id.get(id))
    }

    /// The jobs with a deadline, the next one first.
    pub(crate) fn by_deadline(&self) -> impl Iterator<Item = (Time, &Job)> {
        self.index.deadlines.iter().filter_map(|(deadline, id)| Some((*deadline, self.by_id.get(id)?)))
    }
}

impl Index {
    fn add(&mut self, id: &JobId, job: Indexed) {
        self.count(job);
        if let Some(deadline) = job.deadline {
            self.deadlines.insert((deadline, id.clone()));
        }
    }

    fn remove(&mut self, id: &JobId, job: Indexed) {
        self.discount(job);
        if let Some(deadline) = job.deadline {
            self.deadlines.remove(&(deadline, id.clone()));
        }
    }

    /// Counts a job, apart from its deadline.
    fn count(&mut self, job: Indexed) {
        job.visit(&mut self.totals, |total| *total += 1);
        if let JobState::Assigned(slot) = job.state {
            *self.not_begun.entry(slot.process).or_default() += 1;
        }
    }

    fn discount(&mut self, job: Indexed) {
        job.visit(&mut self.totals, |total| *total -= 1);
        if let JobState::Assigned(slot) = job.state
            && let Some(jobs) = self.not_begun.get_mut(&slot.process)
        {
            *jobs -= 1;
            if *jobs == 0 {
                self.not_begun.remove(&slot.process);
            }
        }
    }
}

impl Indexed {
    fn of(job: &Job) -> Self {
        Self { state: job.state, runs_alone: job.runs_alone, deadline: job.next_deadline() }
    }

    /// Changes every total that counts this job.
    fn visit(self, totals: &mut JobTotals, change: impl Fn(&mut usize)) {
        let in_slot = match self.state {
            JobState::Queued => {
                change(&mut totals.queued);
                false
            }
            JobState::Assigned(_) | JobState::Running(_) | JobState::Stopping { .. } => {
                change(&mut totals.in_slots);
                true
            }
            JobState::Undecided { .. } => {
                change(&mut totals.undecided);
                false
            }
            JobState::Delivering => {
                change(&mut totals.delivering);
                return;
            }
        };
        if self.runs_alone {
            change(&mut totals.suspects);
            if in_slot {
                change(&mut totals.suspects_in_slots);
            }
        }
    }
}

impl Deref for JobMut<'_> {
    type Target = Job;

    fn deref(&self) -> &Job {
        self.job
    }
}

impl DerefMut for JobMut<'_> {
    fn deref_mut(&mut self) -> &mut Job {
        self.job
    }
}

impl Drop for JobMut<'_> {
    fn drop(&mut self) {
        let after = Indexed::of(self.job);
        if after == self.before {
            return;
        }
        if after.deadline == self.before.deadline {
            self.index.discount(self.before);
            self.index.count(after);
        } else {
            self.index.remove(&self.job.id, self.before);
            self.index.add(&self.job.id, after);
        }
    }
}

#[cfg(test)]
impl Jobs {
    /// Fails if the index differs from what the jobs say.
    pub(crate) fn check(&self) {
        let mut expected = Index::default();
        for job in self.by_id.values() {
            expected.add(&job.id, Indexed::of(job));
        }
        assert_eq!(self.index, expected, "the index of the jobs is wrong");
    }
}
