//! The form of one log line: text for people, JSON for programs.
//!
//! `runpod-worker` and `runpod-endpoint` both print it. Text that comes from outside cannot forge a line or reach a terminal as
//! a control sequence: see [`printable`].

mod format;
mod level;
mod line;
mod printable;

pub use format::LogFormat;
pub use level::parse_level;
pub use line::LogLine;
pub use printable::printable;
