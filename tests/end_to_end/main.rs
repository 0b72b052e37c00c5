//! The real binaries, started as a user would start them.

mod bad_input;
mod chaos;
mod drain;
mod failures;
mod lifecycle;
mod network;
mod packaging;
mod startup;
mod tools;
