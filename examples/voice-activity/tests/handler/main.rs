//! The handler with real audio: beside the Python package, and in jobs.

#![cfg(test)]

mod audio;
mod golden;
mod jobs;
