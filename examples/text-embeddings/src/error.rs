//! What can go wrong with the model itself.

use std::path::{Path, PathBuf};

/// The model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model cannot be read.
    #[error("cannot read {}: {reason}; run `make model`, or point TEXT_EMBEDDINGS_MODEL_DIR at the model's folder", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A file of the model is not what it should be.
    #[error("{} is not usable: {reason}; remove the folder and run `make model`", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer refused a text.
    #[error("the text cannot be tokenized: {0}")]
    Tokenize(String),
    /// libtorch refused an operation.
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

/// Tells a missing file with the words of this program; the readers of weights files have words of their own.
pub(crate) fn check_readable(path: &Path) -> Result<(), ModelError> {
    std::fs::File::open(path).map(drop).map_err(|error| ModelError::unreadable(path, &error))
}
