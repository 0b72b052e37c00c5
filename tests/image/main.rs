//! The images that `make image` builds: their programs, started from their own file systems. `run.sh` unpacks one, and names the
//! module here that is about it.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what is not there fails the test")]

mod container;
mod endpoint;
mod example;
mod handler;
