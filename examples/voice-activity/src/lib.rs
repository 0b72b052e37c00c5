//! Finds speech in audio with silero-vad on libtorch: an example of a handler with a TorchScript model, files and a stream.

mod detector;
mod error;
mod handler;
mod segments;
mod settings;
mod wav;

pub use detector::{Detector, Rate};
pub use error::{AudioError, ModelError};
pub use handler::{Input, Output, Segment, VoiceActivity};
pub use segments::{Segments, Span};
pub use settings::Settings;
pub use wav::Wav;
