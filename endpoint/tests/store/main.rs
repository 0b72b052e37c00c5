//! What every store must do, what a durable one must do besides, and what becomes of jobs when the process is killed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails is a test that fails")]

mod batches;
mod conformance;
mod crash;
mod doubt;
mod durable;
mod failures;
mod files;
mod model;
mod operators;
mod replicas;
mod support;
mod together;
mod transfer;
