//! Errors of the model.

use std::path::{Path, PathBuf};

/// Why the model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model cannot be read.
    #[error("cannot read {}: {reason}; run `make model`, or set TEXT_EMBEDDINGS_MODEL_DIR to the model's directory", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
    /// A file of the model is damaged, or does not fit this program.
    #[error("{} is not usable: {reason}; remove its directory and run `make model`", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting of the program has a value that it does not know.
    #[error("{variable} is {value:?}: use {known}")]
    Setting {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The values that it may have.
        known: &'static str,
    },
    /// The tokenizer failed.
    #[error("the text cannot be tokenized: {0}")]
    Tokenize(String),
    /// An operation of libtorch failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

impl ModelError {
    fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), reason: error.to_string() }
    }

    pub(crate) fn invalid(path: &Path, reason: &dyn std::fmt::Display) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Reads a JSON file of the model.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read(path)?).map_err(|error| ModelError::invalid(path, &error))
}

/// Reads a file of the model.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|error| ModelError::unreadable(path, &error))
}

/// Returns this program's error for a missing file, before a reader of weights files returns its own.
pub(crate) fn check_readable(path: &Path) -> Result<(), ModelError> {
    std::fs::File::open(path).map(drop).map_err(|error| ModelError::unreadable(path, &error))
}
