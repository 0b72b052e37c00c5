//! The control thread: reads the messages of the worker. It never runs user code, so it answers at once.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use runpod_handler_protocol::{
    CheckOrder, Decoder, ErrorKind, ErrorReport, PROTOCOL_VERSION, Received, ToHandler, ToSupervisor,
};

use crate::error::HandlerError;
use crate::handler::Handler;
use crate::running_job::{RunningJob, RunningJobs};
use crate::schema::InputSchema;
use crate::send_queue::SendQueue;
use crate::serve::exit::Exit;
use crate::serve::fitness::{Fitness, run_checks};
use crate::serve::loading::SlotSetup;
use crate::serve::slot::{ReceivedJob, SlotOrder, run_slot};
use crate::text::log;

/// Stack size of the threads that run user code, in bytes: that of a main thread.
const USER_STACK: usize = 8 * 1024 * 1024;

/// State of the control thread.
pub(crate) struct Control {
    queue: Arc<SendQueue>,
    jobs: Arc<RunningJobs>,
    exit: SyncSender<Exit>,
    /// Number of handler processes of the worker, from its first message.
    processes: Option<u32>,
    slots: Vec<SyncSender<SlotOrder>>,
    threads: Vec<JoinHandle<()>>,
    chunk_window: u32,
    fitness: Option<Arc<Fitness>>,
}

impl Control {
    pub(crate) fn new(queue: Arc<SendQueue>, exit: SyncSender<Exit>) -> Self {
        Self {
            queue,
            jobs: Arc::default(),
            exit,
            processes: None,
            slots: Vec::new(),
            threads: Vec::new(),
            chunk_window: 1,
            fitness: None,
        }
    }

    /// Reads until the connection ends, and returns why it ended.
    pub(crate) fn run<H: Handler>(mut self, stream: &mut UnixStream) -> Exit {
        let mut decoder = Decoder::<ToHandler>::new();
        loop {
            match decoder.next() {
                Ok(Some(received)) => {
                    if let Err(exit) = self.receive::<H>(received) {
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

    fn receive<H: Handler>(&mut self, received: Received<ToHandler>) -> Result<(), Exit> {
        match received {
            Received::Message(ToHandler::Hello { protocol, worker_version, processes }, _) => {
                if protocol != PROTOCOL_VERSION {
                    return Err(Exit::Protocol(format!(
                        "the worker {worker_version} speaks protocol {protocol}, but this handler (runpod-handler-sdk {}) \
                         speaks {PROTOCOL_VERSION}: build the handler with the SDK of the worker's version",
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                self.processes = Some(processes);
                Ok(())
            }
            _ if self.processes.is_none() => {
                Err(Exit::Protocol("the first message of the worker is not Hello".to_owned()))
            }
            Received::Message(message, payload) => {
                self.handle::<H>(message, payload);
                Ok(())
            }
            Received::Oversize { message: ToHandler::Run { job, attempt, .. }, payload_len } => {
                self.reject(job, attempt, format_args!("the job of {payload_len} bytes is over the size limit"));
                Ok(())
            }
            Received::Oversize { .. } => Ok(()),
            Received::Unreadable { reason } => {
                log(format_args!("a message from the worker cannot be read and is ignored: {reason}"));
                Ok(())
            }
        }
    }

    fn handle<H: Handler>(&mut self, message: ToHandler, payload: Bytes) {
        match message {
            ToHandler::Hello { .. } => {}
            ToHandler::Check(order) => self.check::<H>(order),
            ToHandler::Load { worker_id, slots, device, chunk_window } => {
                if !self.threads.is_empty() {
                    return log(format_args!("a second Load message is ignored"));
                }
                self.chunk_window = chunk_window;
                let setup = SlotSetup {
                    processes: self.processes.unwrap_or(1),
                    models: slots,
                    worker_id,
                    device,
                    queue: Arc::clone(&self.queue),
                    jobs: Arc::clone(&self.jobs),
                    shared: Arc::default(),
                    fitness: self.fitness.clone(),
                };
                match InputSchema::compile(schemars::schema_for!(H::Input).as_value()) {
                    Ok(schema) => {
                        let schema = Arc::new(schema);
                        (0..slots).for_each(|slot| self.start_slot::<H>(slot, setup.clone(), Arc::clone(&schema)));
                    }
                    Err(error) => self.load_failed(0, error),
                }
            }
            ToHandler::Run { job, attempt, slot, deadline_ms, traceparent } => {
                let time_left = Duration::from_millis(deadline_ms);
                let running = Arc::new(RunningJob::new(job, attempt, traceparent, time_left, self.chunk_window));
                self.assign(slot, ReceivedJob { running, payload });
            }
            ToHandler::Cancel { job, attempt, reason } => {
                if let Some(running) = self.jobs.get(&job, attempt) {
                    running.stop(reason);
                }
            }
            ToHandler::ChunkAck { job, attempt, seq } => {
                if let Some(running) = self.jobs.get(&job, attempt) {
                    running.acknowledge(seq);
                }
            }
            ToHandler::Ping { seq } => self.queue.pong(seq),
            ToHandler::Probe { slot } => {
                // A slot that cannot take the order runs a job or has ended, and reports that itself.
                if let Some(sender) = self.slots.get(slot as usize) {
                    let _ = sender.try_send(SlotOrder::Probe);
                }
            }
            ToHandler::Shutdown => {
                // Without its sender a slot ends after its current job.
                self.slots.clear();
                let _ = self.exit.try_send(Exit::Shutdown(std::mem::take(&mut self.threads)));
            }
        }
    }

    /// Starts the fitness checks on a thread of their own, because they run user code.
    fn check<H: Handler>(&mut self, order: CheckOrder) {
        if self.fitness.is_some() || !self.threads.is_empty() {
            return log(format_args!("a Check message is ignored: it is the second one, or comes after Load"));
        }
        let fitness = Arc::new(Fitness::default());
        self.fitness = Some(Arc::clone(&fitness));
        let queue = Arc::clone(&self.queue);
        let processes = self.processes.unwrap_or(1);
        let run = move || run_checks::<H>(&order, processes, &queue, &fitness);
        if let Err(error) = thread::Builder::new().name("checks".to_owned()).stack_size(USER_STACK).spawn(run) {
            log(format_args!("a thread for the fitness checks cannot be started: {error}"));
            let _ = self.exit.try_send(Exit::LoadFailed);
        }
    }

    fn start_slot<H: Handler>(&mut self, slot: u32, setup: SlotSetup, schema: Arc<InputSchema>) {
        // Room for one: the worker may send the next job as soon as it has read the result of the last one.
        let (sender, orders) = sync_channel(1);
        let exit = self.exit.clone();
        let run = move || {
            if run_slot::<H>(slot, &setup, &schema, &orders).is_err() {
                let _ = exit.try_send(Exit::LoadFailed);
            }
        };
        match thread::Builder::new().name(format!("slot-{slot}")).stack_size(USER_STACK).spawn(run) {
            Ok(thread) => {
                self.slots.push(sender);
                self.threads.push(thread);
            }
            Err(error) => {
                let message = format!("a thread for slot {slot} cannot be started ({error}): use fewer slots");
                self.load_failed(slot, message.into());
            }
        }
    }

    fn load_failed(&self, slot: u32, error: HandlerError) {
        let report = error.into_report(ErrorKind::Load);
        log(format_args!("slot {slot} cannot load: {}", report.message));
        self.queue.push_report(&ToSupervisor::LoadFailed { slot }, &report);
        let _ = self.exit.try_send(Exit::LoadFailed);
    }

    fn assign(&self, slot: u32, received: ReceivedJob) {
        let (job, attempt) = (received.running.id.clone(), received.running.attempt);
        let Some(sender) = self.slots.get(slot as usize) else {
            return self.reject(job, attempt, format_args!("this process has no slot {slot}, or is shutting down"));
        };
        // Registered before the slot has the job, so that a cancel right behind the job is not lost.
        let running = Arc::clone(&received.running);
        self.jobs.insert(&running);
        if let Err(error) = sender.try_send(SlotOrder::Run(received)) {
            self.jobs.remove(&running);
            let state = match error {
                TrySendError::Full(_) => "busy",
                TrySendError::Disconnected(_) => "closed",
            };
            self.reject(job, attempt, format_args!("slot {slot} is {state}"));
        }
    }

    fn reject(&self, job: String, attempt: u32, reason: fmt::Arguments<'_>) {
        let report = ErrorReport {
            kind: ErrorKind::Protocol,
            message: format!("the job was not run: {reason}"),
            traceback: String::new(),
        };
        let failed = ToSupervisor::Failed { job, attempt, refresh: false, reloading: false };
        self.queue.push_report(&failed, &report);
    }
}
