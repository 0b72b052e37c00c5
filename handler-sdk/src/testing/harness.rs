//! Plays the worker of a handler under test.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use runpod_handler_protocol::{StopReason, ToHandler, ToSupervisor};
use serde_json::Value;

use super::error::TestError;
use super::job::{End, Finished, JobRequest, Seen, TestJob, Tracked};
use super::process::{Process, Serve};
use super::setup::{Setup, WORKER};

/// Longest wait where the test gives no limit. A model may take long to load.
const PATIENCE: Duration = Duration::from_secs(600);
/// The harness sends a job once.
const ATTEMPT: u32 = 1;

/// A loaded handler.
#[derive(Debug)]
pub struct Harness {
    setup: Setup,
    serve: Serve,
    process: Process,
    /// What each slot does.
    slots: Vec<Slot>,
    jobs: BTreeMap<TestJob, Tracked>,
    submitted: u64,
    device: String,
    stages: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Runs(TestJob),
    /// Its model is being built.
    Loads,
}

/// When the patience of a test that starts to wait now is over.
pub(super) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

pub(super) fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, TestError> {
    serde_json::from_slice(payload).map_err(|error| TestError::Protocol(error.to_string()))
}

impl Harness {
    /// Starts a handler with this many slots and loads its models.
    pub(super) fn start(setup: Setup, serve: Serve, slots: u32) -> Result<Self, TestError> {
        let process = Process::start(serve, setup.fake_device.clone())?;
        let slots = vec![Slot::Free; slots as usize];
        let (device, stages) = (String::new(), Vec::new());
        let mut this = Self { setup, serve, process, slots, jobs: BTreeMap::new(), submitted: 0, device, stages };
        this.load_models()?;
        Ok(this)
    }

    /// The device that the handler chose, such as `cpu` or `cuda:0`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What the handler reported with [`LoadEnv::progress`](crate::LoadEnv::progress) while it loaded.
    pub fn stages(&self) -> &[String] {
        &self.stages
    }

    /// How many jobs the handler takes at once.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Runs one job with this `input`.
    ///
    /// # Errors
    /// [`TestError::Failed`] with the error that the caller would receive. After it the next job can run.
    pub fn run(&mut self, input: &Value) -> Result<Finished, TestError> {
        let job = self.submit(JobRequest::input(input))?;
        self.wait(job)
    }

    /// Runs one job, given as the whole object that the queue sends; see [`JobRequest::object`].
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_job(&mut self, job: &Value) -> Result<Finished, TestError> {
        let job = self.submit(JobRequest::object(job))?;
        self.wait(job)
    }

    /// Runs several jobs at the same time, each with one of these `inputs`, as far as there are slots. Returns their results in the
    /// order of the inputs.
    ///
    /// # Errors
    /// When the handler cannot be reached any more. The failure of a job is in the list.
    pub fn run_all(&mut self, inputs: &[Value]) -> Result<Vec<Result<Finished, TestError>>, TestError> {
        let jobs: Vec<TestJob> = inputs.iter().map(|input| self.submit(input)).collect::<Result<_, _>>()?;
        Ok(jobs.into_iter().map(|job| self.wait(job)).collect())
    }

    /// Starts a job, and returns while it runs. Waits for a free slot first.
    ///
    /// # Errors
    /// When the handler cannot be reached any more, or no slot becomes free.
    pub fn submit(&mut self, request: impl Into<JobRequest>) -> Result<TestJob, TestError> {
        let slot = self.free_slot()?;
        self.submitted += 1;
        let job = TestJob(self.submitted);
        let request = request.into();
        let time_left = request.deadline;
        let (id, text) = request.id_and_text(job);
        let deadline_ms = u64::try_from(time_left.as_millis()).unwrap_or(u64::MAX);
        let run = ToHandler::Run {
            job: id.clone(),
            attempt: ATTEMPT,
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            deadline_ms,
            traceparent: None,
        };
        self.process.send(&run, &text)?;
        self.slots[slot] = Slot::Runs(job);
        let deadline = Instant::now().checked_add(time_left);
        self.jobs.insert(job, Tracked { id, deadline, seen: Seen::default(), end: None });
        Ok(job)
    }

    /// Asks a job to stop, as when its client cancels it.
    ///
    /// # Errors
    /// When the handler cannot be reached any more.
    pub fn cancel(&mut self, job: TestJob) -> Result<(), TestError> {
        self.stop(job, StopReason::Cancelled)
    }

    /// Asks a job to stop. Does nothing to a job that is over.
    ///
    /// # Errors
    /// When the handler cannot be reached any more.
    pub fn stop(&mut self, job: TestJob, reason: StopReason) -> Result<(), TestError> {
        let tracked = self.jobs.get_mut(&job).ok_or(TestError::UnknownJob)?;
        tracked.deadline = None;
        let stop = ToHandler::Stop { job: tracked.id.clone(), attempt: ATTEMPT, reason };
        self.process.send(&stop, b"")
    }

    /// What a job has done so far.
    ///
    /// # Errors
    /// [`TestError::UnknownJob`] when its result was given out.
    pub fn seen(&self, job: TestJob) -> Result<&Seen, TestError> {
        self.jobs.get(&job).map(|tracked| &tracked.seen).ok_or(TestError::UnknownJob)
    }

    /// Waits until a job has done something, such as to stream a chunk.
    ///
    /// # Errors
    /// When the job ends before: its failure, or [`TestError::NotSeen`].
    pub fn wait_until(&mut self, job: TestJob, wanted: impl Fn(&Seen) -> bool) -> Result<&Seen, TestError> {
        let until = patience();
        while !wanted(self.seen(job)?) {
            match &self.tracked(job)?.end {
                None => {}
                Some(End::Done { .. }) => return Err(TestError::NotSeen),
                Some(End::Failed(report)) => return Err(TestError::Failed(report.clone())),
                Some(End::Exited { status }) => return Err(TestError::Exited { status: *status }),
            }
            if !self.pump(until)? {
                return Err(TestError::StillRunning { waited: PATIENCE });
            }
        }
        self.seen(job)
    }

    /// Waits for the result of a job, and gives it out.
    ///
    /// # Errors
    /// [`TestError::Failed`] with the error that the caller would receive.
    pub fn wait(&mut self, job: TestJob) -> Result<Finished, TestError> {
        self.wait_for(job, PATIENCE)
    }

    /// As [`wait`](Self::wait), but no longer than this. The job can be waited for again.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait), and [`TestError::StillRunning`] when the time is over.
    pub fn wait_for(&mut self, job: TestJob, limit: Duration) -> Result<Finished, TestError> {
        let until = Instant::now() + limit;
        while self.tracked(job)?.end.is_none() {
            if !self.pump(until)? {
                return Err(TestError::StillRunning { waited: limit });
            }
        }
        let Tracked { seen, end, .. } = self.jobs.remove(&job).ok_or(TestError::UnknownJob)?;
        match end {
            Some(End::Done { output, records, refresh }) => {
                let Seen { chunks, mut progress, .. } = seen;
                Ok(Finished { output, chunks, progress: progress.pop(), records, refresh })
            }
            Some(End::Failed(report)) => Err(TestError::Failed(report)),
            Some(End::Exited { status }) => Err(TestError::Exited { status }),
            None => Err(TestError::StillRunning { waited: limit }),
        }
    }

    /// Starts the handler anew, as the worker does after a lost device or a crash. Jobs that were running are lost; a fake device works
    /// again.
    ///
    /// # Errors
    /// As when it was loaded first.
    pub fn restart(&mut self) -> Result<(), TestError> {
        self.end_process();
        if let Some(device) = &self.setup.fake_device {
            device.reset();
        }
        self.lose_jobs(0);
        self.process = Process::start(self.serve, self.setup.fake_device.clone())?;
        self.load_models()
    }

    fn tracked(&self, job: TestJob) -> Result<&Tracked, TestError> {
        self.jobs.get(&job).ok_or(TestError::UnknownJob)
    }

    fn load_models(&mut self) -> Result<(), TestError> {
        let Setup { slots: models, device, chunk_window, .. } = &self.setup;
        let load = ToHandler::Load {
            worker_id: WORKER.into(),
            slots: *models,
            device: device.clone(),
            chunk_window: *chunk_window,
        };
        let mut loading = *models;
        self.process.send(&load, b"")?;
        self.slots.fill(Slot::Free);
        let until = patience();
        while loading > 0 {
            match self.process.receive(until)? {
                Some((ToSupervisor::Loaded { device, .. }, _)) => (self.device, loading) = (device, loading - 1),
                Some((ToSupervisor::Loading { stage, .. }, _)) => self.stages.push(stage),
                Some((ToSupervisor::LoadFailed { .. }, payload)) => return Err(TestError::Load(read(&payload)?)),
                Some(_) => {}
                None => return Err(TestError::StillRunning { waited: PATIENCE }),
            }
        }
        Ok(())
    }

    fn free_slot(&mut self) -> Result<usize, TestError> {
        let until = patience();
        loop {
            if let Some(free) = self.slots.iter().position(|slot| *slot == Slot::Free) {
                return Ok(free);
            }
            if !self.pump(until)? {
                return Err(TestError::StillRunning { waited: PATIENCE });
            }
        }
    }

    /// Handles one message, or the end of the process, or a deadline. Returns `false` when nothing happens until then.
    fn pump(&mut self, until: Instant) -> Result<bool, TestError> {
        let deadline = self.jobs.values().filter(|job| job.end.is_none()).filter_map(|job| job.deadline).min();
        let received = self.process.receive(deadline.map_or(until, |deadline| deadline.min(until)));
        match received {
            Ok(Some((message, payload))) => self.handle(message, &payload)?,
            Ok(None) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => self.stop_late_jobs()?,
            Ok(None) => return Ok(false),
            Err(TestError::Exited { status }) if self.jobs.values().any(|job| job.end.is_none()) => {
                self.lose_jobs(status);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn stop_late_jobs(&mut self) -> Result<(), TestError> {
        let now = Instant::now();
        let is_late =
            |tracked: &Tracked| tracked.end.is_none() && tracked.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<TestJob> =
            self.jobs.iter().filter(|(_, tracked)| is_late(tracked)).map(|(job, _)| *job).collect();
        late.into_iter().try_for_each(|job| self.stop(job, StopReason::Deadline))
    }

    fn handle(&mut self, message: ToSupervisor, payload: &Bytes) -> Result<(), TestError> {
        match message {
            ToSupervisor::Started { job, .. } => self.running(&job, |tracked| tracked.seen.started = true),
            ToSupervisor::Chunk { job, seq, .. } => {
                let chunk: Value = read(payload)?;
                self.running(&job, |tracked| tracked.seen.chunks.push(chunk));
                self.process.send(&ToHandler::ChunkAck { job, attempt: ATTEMPT, seq }, b"")?;
            }
            ToSupervisor::Progress { job, .. } => {
                let progress: Value = read(payload)?;
                self.running(&job, |tracked| tracked.seen.progress.push(progress));
            }
            ToSupervisor::Done { job, refresh, records, .. } => {
                let output = read(payload)?;
                self.end(&job, End::Done { output, records, refresh }, Slot::Free);
            }
            ToSupervisor::Failed { job, reloading, .. } => {
                let report = read(payload)?;
                self.end(&job, End::Failed(report), if reloading { Slot::Loads } else { Slot::Free });
            }
            ToSupervisor::Loaded { slot, .. } => {
                if let Some(slot) = self.slots.get_mut(slot as usize).filter(|slot| **slot == Slot::Loads) {
                    *slot = Slot::Free;
                }
            }
            ToSupervisor::LoadFailed { .. } => return Err(TestError::Load(read(payload)?)),
            _ => {}
        }
        Ok(())
    }

    fn running(&mut self, id: &str, change: impl FnOnce(&mut Tracked)) {
        if let Some(tracked) = self.jobs.values_mut().find(|tracked| tracked.end.is_none() && tracked.id == id) {
            change(tracked);
        }
    }

    fn end(&mut self, id: &str, end: End, then: Slot) {
        let Some((job, tracked)) = self.jobs.iter_mut().find(|(_, tracked)| tracked.end.is_none() && tracked.id == id)
        else {
            return;
        };
        tracked.end = Some(end);
        if let Some(slot) = self.slots.iter_mut().find(|slot| **slot == Slot::Runs(*job)) {
            *slot = then;
        }
    }

    fn lose_jobs(&mut self, status: u8) {
        for tracked in self.jobs.values_mut().filter(|tracked| tracked.end.is_none()) {
            tracked.end = Some(End::Exited { status });
        }
    }

    fn end_process(&mut self) {
        if let Some(device) = &self.setup.fake_device {
            device.release();
        }
        if !self.process.has_exited() {
            self.process.shut_down();
        }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.end_process();
    }
}
