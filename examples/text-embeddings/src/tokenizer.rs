//! From texts to token ids.

use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use crate::error::{ModelError, read};

/// The model's tokenizer, which cuts texts at the length that the model was trained for.
#[derive(Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`. A text of more than `max_tokens`, including `[CLS]` and `[SEP]`, is cut at the end.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn read(path: &Path, max_tokens: usize) -> Result<Self, ModelError> {
        let mut inner = Tokenizer::from_bytes(read(path)?).map_err(|error| ModelError::invalid(path, &error))?;
        // The file sets a fixed length of 128, which the Python reference overrides as well.
        let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|error| ModelError::invalid(path, &error))?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// The token ids of each text, in order and without padding.
    ///
    /// # Errors
    /// When the vocabulary has no token for a part of a text, and none for unknown words.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<i64>>, ModelError> {
        let encodings = self
            .inner
            .encode_batch_fast(texts.to_vec(), true)
            .map_err(|error| ModelError::Tokenize(error.to_string()))?;
        Ok(encodings.iter().map(|encoding| encoding.get_ids().iter().map(|&id| i64::from(id)).collect()).collect())
    }
}
