//! The control thread: reads the messages of the worker. It never runs user code, so it answers at once.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{
    CheckOrder, Decoder, ErrorKind, ErrorReport, PROTOCOL_VERSION, Received, ToHandler, ToSupervisor,
};

use crate::error::HandlerError;
use crate::fake_device::FakeDevice;
use crate::running_job::{RunningJob, RunningJobs};
use crate::send_queue::SendQueue;
use crate::serve::checks::run_checks;
use crate::serve::exit::Exit;
use crate::serve::fitness::Fitness;
use crate::serve::loading::SlotSetup;
use crate::serve::program::{Models, Program, ReceivedJob, Started, spawn};
use crate::text::log;

/// State of the control thread.
pub(crate) struct Control {
    queue: Arc<SendQueue>,
    jobs: Arc<RunningJobs>,
    exit: SyncSender<Exit>,
    /// Number of handler processes of the worker, from its first message.
    processes: Option<u32>,
    /// The worker wants reports about batches and steps.
    batch_reports: bool,
    /// `None` before the load and after the shutdown.
    models: Option<Box<dyn Models>>,
    threads: Vec<JoinHandle<()>>,
    chunk_window: u32,
    fitness: Option<Arc<Fitness>>,
    fake_device: Option<FakeDevice>,
}

impl Control {
    pub(crate) fn new(queue: Arc<SendQueue>, exit: SyncSender<Exit>, fake_device: Option<FakeDevice>) -> Self {
        Self {
            queue,
            jobs: Arc::default(),
            exit,
            processes: None,
            batch_reports: false,
            models: None,
            threads: Vec::new(),
            chunk_window: 1,
            fitness: None,
            fake_device,
        }
    }

    /// Reads until the connection ends, and returns why it ended.
    pub(crate) fn run<P: Program>(mut self, stream: &mut UnixStream) -> Exit {
        let mut decoder = Decoder::<ToHandler>::new();
        loop {
            match decoder.next() {
                Ok(Some(received)) => {
                    if let Err(exit) = self.receive::<P>(received) {
                        return exit;
                    }
                }
                Ok(None) => match decoder.read_from(stream) {
                    Ok(0) => return Exit::Disconnected,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Exit::Disconnected,
                },
                Err(error) => return Exit::Protocol(format!("the worker sent bytes that are not a frame: {error}")),
            }
        }
    }

    fn receive<P: Program>(&mut self, received: Received<ToHandler>) -> Result<(), Exit> {
        match received {
            Received::Message(ToHandler::Hello { protocol, worker_version, processes, batch_reports }, _) => {
                if protocol != PROTOCOL_VERSION {
                    return Err(Exit::Protocol(format!(
                        "the worker {worker_version} speaks protocol {protocol}, but this handler (runpod-handler-sdk {}) \
                         speaks {PROTOCOL_VERSION}: build the handler with the SDK of the worker's version",
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                self.processes = Some(processes);
                self.batch_reports = batch_reports;
                Ok(())
            }
            _ if self.processes.is_none() => {
                Err(Exit::Protocol("the first message of the worker is not Hello".to_owned()))
            }
            Received::Message(message, payload) => {
                self.handle::<P>(message, payload);
                Ok(())
            }
            Received::Oversize { message: ToHandler::Run { job, attempt, .. }, payload_len } => {
                self.reject(job, attempt, &format!("the job of {payload_len} bytes is over the size limit"));
                Ok(())
            }
            Received::Oversize { .. } => Ok(()),
            Received::Unreadable { reason } => {
                log(format_args!("a message from the worker cannot be read and is ignored: {reason}"));
                Ok(())
            }
        }
    }

    fn handle<P: Program>(&mut self, message: ToHandler, payload: Bytes) {
        match message {
            ToHandler::Hello { .. } => {}
            ToHandler::Check(order) => self.check::<P>(order),
            ToHandler::Load { worker_id, slots, device, chunk_window } => {
                self.load::<P>(worker_id, slots, device, chunk_window);
            }
            ToHandler::Run { job, attempt, slot, deadline_ms, traceparent } => {
                let time_left = Duration::from_millis(deadline_ms);
                let running = Arc::new(RunningJob::new(job, attempt, traceparent, time_left, self.chunk_window));
                self.assign(slot, ReceivedJob { running, payload });
            }
            ToHandler::Stop { job, attempt, reason } => {
                if let Some(running) = self.jobs.get(&job, attempt) {
                    running.stop(reason);
                    if let Some(models) = &self.models {
                        models.stopped(&running);
                    }
                }
            }
            ToHandler::ChunkAck { job, attempt, seq } => {
                if let Some(running) = self.jobs.get(&job, attempt) {
                    running.acknowledge(seq);
                    if let Some(models) = &self.models {
                        models.acknowledged();
                    }
                }
            }
            ToHandler::Ping { seq } => self.queue.pong(seq),
            ToHandler::Probe { slot } => {
                if let Some(models) = &self.models {
                    models.probe(slot);
                }
            }
            ToHandler::Shutdown => {
                self.models = None;
                let _ = self.exit.try_send(Exit::Shutdown(std::mem::take(&mut self.threads)));
            }
        }
    }

    /// Starts the fitness checks on a thread of their own, because they run user code.
    fn check<P: Program>(&mut self, order: CheckOrder) {
        if self.fitness.is_some() || !self.threads.is_empty() {
            return log(format_args!("a Check message is ignored: it is the second one, or comes after Load"));
        }
        let fitness = Arc::new(Fitness::default());
        self.fitness = Some(Arc::clone(&fitness));
        let queue = Arc::clone(&self.queue);
        let processes = self.processes.unwrap_or(1);
        let run = move || run_checks::<P>(&order, processes, &queue, &fitness);
        if let Err(error) = spawn("checks", run) {
            log(format_args!("a thread for the fitness checks cannot be started: {error}"));
            let _ = self.exit.try_send(Exit::LoadFailed);
        }
    }

    /// Starts the threads that load the models and run the jobs.
    fn load<P: Program>(&mut self, worker_id: String, models: u32, device: String, chunk_window: u32) {
        if !self.threads.is_empty() {
            return log(format_args!("a second Load message is ignored"));
        }
        self.chunk_window = chunk_window;
        let setup = SlotSetup {
            processes: self.processes.unwrap_or(1),
            batch_reports: self.batch_reports,
            models,
            worker_id,
            device,
            queue: Arc::clone(&self.queue),
            jobs: Arc::clone(&self.jobs),
            uploads: Arc::default(),
            shared: Arc::default(),
            fitness: self.fitness.clone(),
            fake_device: self.fake_device.clone(),
        };
        match P::start(&setup, &self.exit) {
            Ok(Started { models, threads }) => (self.models, self.threads) = (Some(models), threads),
            Err(error) => self.load_failed(error),
        }
    }

    fn load_failed(&self, error: HandlerError) {
        let report = error.into_report(ErrorKind::Load);
        log(format_args!("the handler cannot load: {}", report.message));
        self.queue.push_report(&ToSupervisor::LoadFailed { slot: 0 }, &report);
        let _ = self.exit.try_send(Exit::LoadFailed);
    }

    fn assign(&self, slot: u32, received: ReceivedJob) {
        let (job, attempt) = (received.running.id.clone(), received.running.attempt);
        let Some(models) = &self.models else {
            return self.reject(job, attempt, "this process has not loaded, or is shutting down");
        };
        // Registered before a slot has the job, so that a cancel right behind the job is not lost.
        let running = Arc::clone(&received.running);
        self.jobs.insert(&running);
        if let Err(reason) = models.assign(slot, received) {
            self.jobs.remove(&running);
            self.reject(job, attempt, &reason);
        }
    }

    fn reject(&self, job: String, attempt: u32, reason: &str) {
        let report = ErrorReport {
            kind: ErrorKind::Protocol,
            message: format!("the job was not run: {reason}"),
            traceback: String::new(),
        };
        let failed = ToSupervisor::Failed { job, attempt, refresh: false, reloading: false };
        self.queue.push_report(&failed, &report);
    }
}
