//! Chat and completions with SmolLM2 on libtorch: an example of a handler that runs many jobs in each step.

mod cache;
mod decoder;
mod error;
mod gguf;
mod handler;
mod llama;
mod openai;
mod quantized;
mod request;
mod sampler;
mod vocabulary;
mod written;

pub use decoder::{Decoder, Text};
pub use error::ModelError;
pub use handler::{Sequence, TextGeneration, Writing};
pub use request::{Input, Message, Request, Role, StopWords, StreamOptions};
pub use sampler::{Sampler, choose};
pub use written::Written;
