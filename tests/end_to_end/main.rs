//! The real binaries, started as a user would start them.

mod packaging;
