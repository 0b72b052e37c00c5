//! The real binaries, started as a user would start them.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what is not there fails the test")]

mod bad_input;
mod crashes;
mod lifecycle;
mod packaging;
mod readme;
mod startup;
mod tools;
