//! Errors of the model and of the audio.

use std::path::PathBuf;

use runpod_handler_sdk::{ErrorClass, ErrorKind};

/// Why the model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The model's file cannot be read.
    #[error("cannot read {}: {source}; run `make models`, or set VOICE_ACTIVITY_MODEL to the file silero_vad.jit", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not the TorchScript of silero-vad.
    #[error("{} is not usable: {reason}; remove it and run `make models`", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What libtorch says about it.
        reason: String,
    },
    /// The model returned something else than one probability.
    #[error("the model returned something else than a probability")]
    NoProbability,
    /// An operation of libtorch failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

/// Why audio cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// It is not a WAV file, or one of a form that cannot be decoded, or it ends too early.
    #[error(
        "input.audio: this is not a WAV file that can be read ({0}); `ffmpeg -i FILE -ac 1 -ar 16000 OUT.wav` makes one"
    )]
    Wav(String),
    /// The model does not know the sample rate.
    #[error(
        "input.audio: the sample rate is {0} Hz, and must be 8000 Hz or a multiple of 16000 Hz; \
         `ffmpeg -i FILE -ac 1 -ar 16000 OUT.wav` changes it"
    )]
    Rate(u32),
    /// There are more than two channels.
    #[error("input.audio: there are {0} channels, and must be one or two; `ffmpeg -i FILE -ac 1 OUT.wav` mixes them")]
    Channels(u16),
}

impl ErrorClass for AudioError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Validation
    }
}

impl From<hound::Error> for AudioError {
    fn from(error: hound::Error) -> Self {
        Self::Wav(error.to_string())
    }
}
