//! The endpoint as its clients and workers see it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails is a test that fails")]

mod auth;
mod cancel;
mod commands;
mod connections;
mod dev;
mod health;
mod lease;
mod policy;
mod results;
mod streaming;
mod submit;
mod support;
mod take;
