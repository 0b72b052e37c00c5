//! The real binaries, started as a user would start them.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what is not there fails the test")]

mod bad_input;
mod chaos;
mod drain;
mod failures;
mod gpu_figures;
mod lifecycle;
mod network;
mod packaging;
mod readme;
mod spool;
mod startup;
mod tools;
mod upkeep;
