//! Chat and completions with SmolLM2 on libtorch: an example of a handler that runs many jobs in each step.

mod cache;
mod decoder;
mod error;
mod gguf;
mod llama;
mod quantized;
mod vocabulary;

pub use decoder::{Decoder, Text};
pub use error::ModelError;
