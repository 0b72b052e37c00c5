//! Scripted faults: failures on request, so that authors of handlers and workers can rehearse them.
//!
//! `script` is what a user writes, `plan` decides which request is hit; the API's `fault_injection` makes it happen.

mod alarms;
mod plan;
mod script;

pub use plan::Faults;
pub(crate) use plan::{ProcessSignal, Target};
pub use script::{Fault, FaultKind, FaultRoute, Script, ScriptError};

/// The header of a job submission that carries faults for this job alone.
pub const HEADER: &str = "x-runpod-faults";
