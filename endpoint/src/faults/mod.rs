//! Scripted faults: bad days on request, so that handler and worker authors can rehearse them.
//!
//! `script` is what a user writes, `plan` decides which request is hit, `layer` makes it happen.

mod alarms;
mod connection;
mod layer;
mod plan;
mod script;

pub(crate) use connection::ResettableStream;
pub(crate) use layer::inject;
pub use plan::Faults;
pub(crate) use plan::ProcessSignal;
pub use script::{Fault, FaultKind, FaultRoute, Script, ScriptError};

/// The header of a job submission that carries faults for this job alone.
pub const HEADER: &str = "x-runpod-faults";
