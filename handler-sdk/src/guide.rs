//! The snippets of the guide, compiled as documentation tests. They use every feature but `torch`, as tests of the whole workspace do.
#![cfg_attr(all(feature = "async", feature = "files"), doc = include_str!("../../docs/handlers.md"))]
