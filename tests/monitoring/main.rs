//! Alerts and monitoring, with and without a stack: a real Prometheus and a real Alertmanager over the shipped files.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what is not there fails the test")]

mod database;
mod endpoints;
mod incidents;
mod live;
mod operations;
mod queue_depth;
mod rules;
mod snippets;
mod stack;
mod webhook;
