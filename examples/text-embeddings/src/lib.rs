//! Sentence embeddings with all-MiniLM-L6-v2 on libtorch: an example handler that does real work.

pub mod bert;
mod encoder;
mod error;
pub mod pooling;
pub mod tokenizer;
pub mod weights;

pub use encoder::{Embeddings, Encoder};
pub use error::ModelError;
