//! The official Python package 1.12.0 and the JavaScript SDK, unmodified, against the real endpoint program.
//!
//! `make python-client js-client` installs them. [`checklist`] says where each statement about endpoints is tested.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails is a test that fails")]

mod checklist;
mod clients;
mod program;
mod workers;
