//! The real binaries, started as a user would start them.

mod bad_input;
mod crashes;
mod lifecycle;
mod packaging;
mod startup;
mod tools;
mod upkeep;
