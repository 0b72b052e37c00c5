//! The real binaries, started as a user would start them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod bad_input;
mod chaos;
mod drain;
mod failures;
mod lifecycle;
mod network;
mod packaging;
mod startup;
mod tools;
