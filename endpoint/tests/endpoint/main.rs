//! The endpoint as its clients and workers see it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails is a test that fails")]

mod auth;
mod batch;
mod browsers;
mod cancel;
mod commands;
mod configured;
mod connections;
mod console;
mod dev;
mod extensions;
mod faults;
mod health;
mod lease;
mod methods;
mod metrics_docs;
mod monitoring;
mod openai;
mod openai_streams;
mod overflow;
mod policy;
mod prestart;
mod rate_limits;
mod refusals;
mod repeats;
mod results;
mod scaling;
mod streaming;
mod submit;
mod support;
mod take;
mod top;
mod webhooks;
