//! Sentence embeddings with all-MiniLM-L6-v2 on libtorch: an example handler with a real model.

pub mod bert;
mod encoder;
mod error;
mod handler;
pub mod input;
pub mod pooling;
mod precision;
pub mod tokenizer;

pub use encoder::{Embedding, Encoder};
pub use error::ModelError;
pub use handler::{Input, Output, TextEmbeddings};
pub use precision::Precision;
