//! The language between the worker (supervisor) and a handler process.
//!
//! One Unix stream socket pair joins the two. The child finds its end on file descriptor 0 and moves it away at once;
//! stdout and stderr stay free for the user's own output. What travels is a sequence of [frames](frame): a small JSON
//! header that is one of the [messages](message), and an opaque payload that the supervisor passes on without parsing.
//!
//! ```text
//! handler                               supervisor
//!    │ ── Hello{protocol} + manifest ──▶ │   refused loudly when the protocol numbers differ
//!    │ ◀── Hello{protocol} ───────────── │
//!    │ ◀── Check ─────────────────────── │   only before a process is trusted for the first time
//!    │ ── Checked + reports ───────────▶ │
//!    │ ◀── Load{slots, device} ───────── │
//!    │ ── Loading{stage, done, total} ─▶ │   any number of times, so that start-up is judged by progress
//!    │ ── Loaded{slot} ────────────────▶ │   once per slot
//!    │ ◀── Run{job, slot} + job ──────── │
//!    │ ── Started{job} ────────────────▶ │
//!    │ ── Chunk{seq} + item ───────────▶ │   at most `chunk_window` without acknowledgement
//!    │ ◀── ChunkAck{seq} ─────────────── │
//!    │ ── Done{job} + output ──────────▶ │   or Failed{job} + error report
//!    │ ◀── Probe{slot} ───────────────── │   now and then, while a GPU has nothing to do
//!    │ ── Probed{slot, ok} ────────────▶ │
//! ```
//!
//! This crate holds no I/O beyond [`std::io::Read`] and no async code, and it depends on nothing that could pull libtorch
//! into the supervisor.
#![forbid(unsafe_code)]

pub mod check;
pub mod frame;
pub mod log_line;
pub mod message;
pub mod records;

pub use check::{CheckOrder, CheckReport, CheckStatus};
pub use frame::{Decoder, FrameError, MAX_HEADER_LEN, MAX_PAYLOAD_LEN, Received, encode_header};
pub use log_line::{LOG_MARK, LogLine, MAX_LOG_LINE};
pub use message::{CancelReason, ErrorKind, ErrorReport, Manifest, PROTOCOL_VERSION, ToHandler, ToSupervisor};
