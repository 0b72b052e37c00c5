//! The snippets of the guide, compiled as documentation tests. One of them needs the feature `async`, which tests of the whole
//! workspace have.
#![cfg_attr(feature = "async", doc = include_str!("../../docs/handlers.md"))]
