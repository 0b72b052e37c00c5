//! The snippets of the guide, compiled as documentation tests. They use every feature but `torch`.
#![cfg_attr(feature = "files", doc = include_str!("../../docs/handlers.md"))]
