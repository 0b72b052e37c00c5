//! The form of one log line: text for people, JSON for programs.
//!
//! `runpod-worker` and `runpod-endpoint` both print it. Text that comes from outside cannot forge a line or reach a terminal as
//! a control sequence: see [`printable()`].

mod format;
mod level;
mod line;
mod printable;
mod writer;

pub use format::LogFormat;
pub use level::parse_level;
pub use line::LogLine;
pub use printable::printable;
pub use writer::{LineQueue, LogGuard, NOTE_INTERVAL, WRITER_FLUSH_TIMEOUT, WRITER_QUEUE};
