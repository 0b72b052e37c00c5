//! What the control thread needs of a handler, whether it runs jobs one by one or together.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use runpod_handler_protocol::Manifest;

use crate::check::Check;
use crate::error::HandlerError;
use crate::load_env::LoadEnv;
use crate::running_job::RunningJob;
use crate::serve::exit::Exit;
use crate::serve::loading::SlotSetup;

/// Stack size of the threads that run user code, in bytes: that of a main thread.
const USER_STACK: usize = 8 * 1024 * 1024;

/// A kind of handler program.
pub(crate) trait Program: 'static {
    fn manifest() -> Manifest;

    /// The fitness checks of the handler.
    fn checks(env: &LoadEnv) -> Vec<Check>;

    /// Starts the threads that load the models and run jobs. They send to `exit` when a model cannot be loaded.
    ///
    /// # Errors
    /// Why the threads cannot be started.
    fn start(setup: &SlotSetup, exit: &SyncSender<Exit>) -> Result<Started, HandlerError>;
}

/// The running threads of a program.
pub(crate) struct Started {
    pub(crate) models: Box<dyn Models>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

/// The models, as the control thread sees them. None of the methods blocks or runs user code. When this is dropped, the threads
/// end after the jobs that they have.
pub(crate) trait Models: Send {
    /// Passes a job on.
    ///
    /// # Errors
    /// Why the job cannot be run.
    fn assign(&self, slot: u32, job: ReceivedJob) -> Result<(), String>;

    /// Tests the device of a slot.
    fn probe(&self, slot: u32);

    /// A job was asked to stop.
    fn stopped(&self, job: &Arc<RunningJob>);

    /// Chunks of a job were acknowledged.
    fn acknowledged(&self) {}
}

/// A job: its shared state, and the job object as the queue sent it.
#[derive(Debug)]
pub(crate) struct ReceivedJob {
    pub(crate) running: Arc<RunningJob>,
    pub(crate) payload: Bytes,
}

/// Starts a thread that runs user code.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(USER_STACK).spawn(run)
}
