//! The real binaries, started as a user would start them.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod bad_input;
mod crashes;
mod lifecycle;
mod packaging;
mod startup;
mod tools;
