//! The endpoint as its clients and workers see it.

mod auth;
mod cancel;
mod commands;
mod connections;
mod console;
mod dev;
mod health;
mod lease;
mod openapi;
mod policy;
mod results;
mod streaming;
mod submit;
mod support;
mod take;
