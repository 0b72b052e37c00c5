//! The control loop: reads what the supervisor says and never runs user code, so it answers at once.

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

use crate::Handler;
use crate::checks::{Fitness, run_checks};
use crate::outgoing::Outgoing;
use crate::running::{RunningJob, RunningJobs};
use crate::serve::End;
use crate::slot::{Assignment, Order, Process, run_slot};
use crate::text::log;

/// As deep a stack as a main thread has.
const SLOT_STACK: usize = 8 * 1024 * 1024;

/// State of the control thread.
pub(crate) struct Control {
    outgoing: Arc<Outgoing>,
    jobs: Arc<RunningJobs>,
    end: SyncSender<End>,
    greeted: bool,
    slots: Vec<SyncSender<Order>>,
    threads: Vec<JoinHandle<()>>,
    chunk_window: u32,
    fitness: Option<Arc<Fitness>>,
}

impl Control {
    pub(crate) fn new(outgoing: Arc<Outgoing>, end: SyncSender<End>) -> Self {
        Self {
            outgoing,
            jobs: Arc::default(),
            end,
            greeted: false,
            slots: Vec::new(),
            threads: Vec::new(),
            chunk_window: 1,
            fitness: None,
        }
    }

    /// Reads until the connection ends; says how it ended.
    pub(crate) fn run<H: Handler>(mut self, stream: &mut UnixStream) -> End {
        let mut decoder = Decoder::<ToHandler>::new();
        loop {
            match decoder.next() {
                Ok(Some(received)) => {
                    if let Err(end) = self.receive::<H>(received) {
                        return end;
                    }
                }
                Ok(None) => match decoder.read_from(stream) {
                    Ok(0) => return End::Disconnected,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return End::Disconnected,
                },
                Err(error) => return End::Protocol(format!("the worker sent something that is no frame: {error}")),
            }
        }
    }

    fn receive<H: Handler>(&mut self, received: Received<ToHandler>) -> Result<(), End> {
        match received {
            Received::Message(ToHandler::Hello { protocol, worker_version }, _) => {
                if protocol != PROTOCOL_VERSION {
                    return Err(End::Protocol(format!(
                        "the worker {worker_version} speaks protocol {protocol}, this handler (runpod-handler-sdk {}) \
                         {PROTOCOL_VERSION}: build the handler with the SDK of the worker's version",
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                self.greeted = true;
                Ok(())
            }
            _ if !self.greeted => Err(End::Protocol("the worker did not say hello first".to_owned())),
            Received::Message(message, payload) => {
                self.handle::<H>(message, payload);
                Ok(())
            }
            Received::Oversize { message: ToHandler::Run { job, attempt, .. }, payload_len } => {
                self.refuse(job, attempt, format_args!("the job of {payload_len} bytes is over the limit"));
                Ok(())
            }
            Received::Oversize { .. } => Ok(()),
            Received::Unreadable { reason } => {
                log(format_args!("a message of the worker cannot be read and is ignored: {reason}"));
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
                    return log(format_args!("a second order to load is ignored"));
                }
                self.chunk_window = chunk_window;
                let process = Process {
                    slots,
                    worker_id,
                    device,
                    outgoing: Arc::clone(&self.outgoing),
                    jobs: Arc::clone(&self.jobs),
                    shared: Arc::default(),
                    fitness: self.fitness.clone(),
                };
                for slot in 0..slots {
                    self.start_slot::<H>(slot, process.clone());
                }
            }
            ToHandler::Run { job, attempt, slot, deadline_ms, traceparent } => {
                let left = Duration::from_millis(deadline_ms);
                let running = Arc::new(RunningJob::new(job, attempt, traceparent, left, self.chunk_window));
                self.assign(slot, Assignment { running, payload });
            }
            ToHandler::Cancel { job, attempt, reason } => {
                if let Some(running) = self.jobs.get(&job, attempt) {
                    running.cancel(reason);
                }
            }
            ToHandler::ChunkAck { job, attempt, seq } => {
                if let Some(running) = self.jobs.get(&job, attempt) {
                    running.acknowledge(seq);
                }
            }
            ToHandler::Ping { seq } => self.outgoing.pong(seq),
            ToHandler::Probe { slot } => {
                // A slot that cannot take it is busy or gone, and the worker will hear of either.
                if let Some(sender) = self.slots.get(slot as usize) {
                    let _ = sender.try_send(Order::Probe);
                }
            }
            ToHandler::Shutdown => {
                // Slots end when their jobs are done, because nothing can be sent to them any more.
                self.slots.clear();
                let _ = self.end.try_send(End::Shutdown(std::mem::take(&mut self.threads)));
            }
        }
    }

    /// Checks may take long and run user code, so they have a thread of their own.
    fn check<H: Handler>(&mut self, order: CheckOrder) {
        if self.fitness.is_some() || !self.threads.is_empty() {
            return log(format_args!("an order to check is ignored: it comes late or twice"));
        }
        let fitness = Arc::new(Fitness::default());
        self.fitness = Some(Arc::clone(&fitness));
        let outgoing = Arc::clone(&self.outgoing);
        let run = move || run_checks::<H>(&order, &outgoing, &fitness);
        if let Err(error) = thread::Builder::new().name("checks".to_owned()).stack_size(SLOT_STACK).spawn(run) {
            log(format_args!("a thread for the checks cannot be started: {error}"));
            let _ = self.end.try_send(End::LoadFailed);
        }
    }

    fn start_slot<H: Handler>(&mut self, slot: u32, process: Process) {
        // Room for one: the supervisor may send the next job as soon as it has read the result of the last.
        let (sender, orders) = sync_channel(1);
        let end = self.end.clone();
        let run = move || {
            if run_slot::<H>(slot, &process, &orders).is_err() {
                let _ = end.try_send(End::LoadFailed);
            }
        };
        match thread::Builder::new().name(format!("slot-{slot}")).stack_size(SLOT_STACK).spawn(run) {
            Ok(thread) => {
                self.slots.push(sender);
                self.threads.push(thread);
            }
            Err(error) => {
                let report = ErrorReport {
                    kind: ErrorKind::Load,
                    message: format!("a thread for slot {slot} cannot be started ({error}): ask for fewer slots"),
                    traceback: String::new(),
                };
                self.outgoing.push_report(&ToSupervisor::LoadFailed { slot }, &report);
                let _ = self.end.try_send(End::LoadFailed);
            }
        }
    }

    fn assign(&self, slot: u32, assignment: Assignment) {
        let (job, attempt) = (assignment.running.id.clone(), assignment.running.attempt);
        let Some(sender) = self.slots.get(slot as usize) else {
            return self.refuse(job, attempt, format_args!("this process has no slot {slot}, or is shutting down"));
        };
        // Known before the slot has it, so that a cancel right behind the job is not lost.
        let running = Arc::clone(&assignment.running);
        self.jobs.insert(&running);
        if let Err(error) = sender.try_send(Order::Run(assignment)) {
            self.jobs.remove(&running);
            let state = match error {
                TrySendError::Full(_) => "busy",
                TrySendError::Disconnected(_) => "gone",
            };
            self.refuse(job, attempt, format_args!("slot {slot} is {state}"));
        }
    }

    fn refuse(&self, job: String, attempt: u32, why: fmt::Arguments<'_>) {
        let report =
            ErrorReport { kind: ErrorKind::Protocol, message: format!("not run: {why}"), traceback: String::new() };
        let failed = ToSupervisor::Failed { job, attempt, refresh: false, reloading: false };
        self.outgoing.push_report(&failed, &report);
    }
}
