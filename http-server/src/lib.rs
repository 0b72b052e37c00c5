//! Serves an axum router within limits.
//!
//! No client can take all connections, descriptors or memory of the program:
//!
//! - At most [`ServerLimits::max_connections`] are open. A new one replaces one that is idle, or whose request does not arrive;
//!   if none can be spared, the new one gets status 503. Beyond 64 such refusals at once it is closed without an answer.
//! - The header of a request must arrive in time, and its size is checked while it is read.
//! - A request body and the reader of a response must make progress.
//! - Request bodies share a [`Budget`] of bytes.
//! - Of a request that is refused before its body was read, up to 64 MiB are read and dropped: its client is to see the answer.
//!
//! [`exposition()`] answers a scraper of metrics in the format that it asks for.
//!
//! What is refused is counted by reason ([`ServerCounts`]) and logged, at most one line every ten seconds.

mod budget;
mod connection;
mod counts;
mod descriptors;
mod exposition;
mod host;
mod limits;
mod phase;
mod rest;
mod serve;
mod stream;
mod table;
mod tracked;

pub use budget::{Budget, Share};
pub use connection::Connection;
pub use counts::{Refusal, ServerCounts};
pub use descriptors::{connections_within, raise_descriptor_limit};
pub use exposition::exposition;
pub use host::names_this_machine;
pub use limits::ServerLimits;
pub use serve::HttpServer;
