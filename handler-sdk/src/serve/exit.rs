//! How a handler process ends, and its exit statuses.

use std::thread::JoinHandle;

use crate::serve::loading::LoadFailed;

/// Exit status of a handler that could not load its model. It has reported the reason to the worker.
pub const EXIT_LOAD_FAILED: u8 = 1;
/// Exit status of a handler that lost its device while several jobs ran together. The worker runs each of them alone.
pub const EXIT_DEVICE_LOST: u8 = 2;
/// Exit status of a handler that was not started by a worker.
pub const EXIT_USAGE: u8 = 64;
/// Exit status of a handler that cannot talk to the worker: the protocol versions differ, or the bytes that it received are
/// not a frame.
pub const EXIT_PROTOCOL: u8 = 65;

/// Why the process ends.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The worker asked for it. These are the threads of slots that may still run a job.
    Shutdown(Vec<JoinHandle<()>>),
    LoadFailed,
    /// The device was lost while several jobs ran together.
    DeviceLost,
    /// The worker's messages cannot be understood, for this reason.
    Protocol(String),
    /// The connection to the worker is closed.
    Disconnected,
}

impl From<LoadFailed> for Exit {
    fn from(_: LoadFailed) -> Self {
        Self::LoadFailed
    }
}
