//! Errors of the model.

use std::path::{Path, PathBuf};

/// Why the model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The model's file cannot be read.
    #[error("cannot read {}: {source}; run `make models`, or set TEXT_GENERATION_MODEL to a model's GGUF file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The model's file is damaged, or contains a network that this program cannot build.
    #[error("{} is not usable: {reason}; remove it and run `make models`", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer failed.
    #[error("the text cannot be tokenized: {0}")]
    Tokenize(String),
    /// There is nothing to go on with.
    #[error("a prompt needs at least one token")]
    EmptyPrompt,
    /// An operation of libtorch failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

impl ModelError {
    pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }

    pub(crate) fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.into() }
    }
}
