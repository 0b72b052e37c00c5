//! The snippets of the guide, compiled as documentation tests.
#![doc = include_str!("../../docs/handlers.md")]
