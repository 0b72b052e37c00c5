//! The protocol between the worker, also called the supervisor, and a handler process.
//!
//! The two are connected by a Unix stream socket pair. The handler process finds its end on file descriptor 0 and moves it
//! to another descriptor at once; stdout and stderr stay free for output of user code. Each side sends a sequence of
//! [frames](frame): a small JSON header, which is one of the [messages](message), and an opaque payload, which the supervisor
//! passes on without parsing.
//!
//! ```text
//! handler                               supervisor
//!    │ ── Hello{protocol} + manifest ──▶ │   an error when the protocol versions differ
//!    │ ◀── Hello{protocol} ───────────── │
//!    │ ◀── Check ─────────────────────── │   before the first load, and after a crash
//!    │ ── Checked + reports ───────────▶ │
//!    │ ◀── Load{slots, device} ───────── │
//!    │ ── Loading{stage, done, total} ─▶ │   any number of times; progress extends the start-up limit
//!    │ ── Loaded{slot} ────────────────▶ │   once per slot
//!    │ ◀── Run{job, slot} + job ──────── │
//!    │ ── Started{job} ────────────────▶ │
//!    │ ── Batch, Steps ────────────────▶ │   only if the worker's Hello asks for them
//!    │ ── Chunk{seq} + item ───────────▶ │   at most `chunk_window` unacknowledged
//!    │ ◀── ChunkAck{seq} ─────────────── │
//!    │ ── Done{job} + output ──────────▶ │   or Failed{job} + error report
//!    │ ◀── Probe{slot} ───────────────── │   now and then, while a GPU is idle
//!    │ ── Probed{slot, ok} ────────────▶ │
//!    │ ── Concurrency{jobs} ───────────▶ │   an async handler runs more jobs at once, or fewer
//!    │ ── Blocked ─────────────────────▶ │   an async handler whose threads are all blocked must be replaced
//! ```
//!
//! This crate contains no async code and no I/O beyond [`std::io::Read`]. None of its dependencies can link libtorch into the
//! supervisor.
#![forbid(unsafe_code)]

pub mod batch;
pub mod check;
pub mod frame;
pub mod log_line;
pub mod message;
pub mod records;

pub use batch::{BatchReport, ClosedBy, LimitsNow, StepReport};
pub use check::{CheckOrder, CheckReport, CheckStatus};
pub use frame::{Decoder, FrameError, MAX_HEADER_LEN, MAX_PAYLOAD_LEN, Received, encode_header};
pub use log_line::{LOG_MARK, LogLine, MAX_LOG_LINE};
pub use message::{
    ErrorKind, ErrorReport, MAX_CONCURRENCY, MAX_SLOTS, Manifest, PROTOCOL_VERSION, StopReason, ToHandler,
    ToSupervisor, TooManySlots,
};
