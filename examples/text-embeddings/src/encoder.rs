//! The whole model, from texts to unit vectors.

use std::path::Path;

use serde::Deserialize;
use tch::nn::VarStore;
use tch::{Device, TchError, Tensor};

use crate::bert::{Bert, Config};
use crate::error::{ModelError, check_readable, read_json};
use crate::pooling::mean_pool;
use crate::tokenizer::TextTokenizer;

/// Most texts in one batch: enough to fill a GPU, and few enough that a cancelled job ends soon.
const MAX_BATCH: usize = 32;
/// Token id that pads short rows. The mask hides it, so it can be any id of the vocabulary.
const PADDING: i64 = 0;

/// The embedding of one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// The unit vector.
    pub vector: Vec<f32>,
    /// Number of tokens after cutting a long text, without padding.
    pub tokens: usize,
}

/// A loaded model.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: TextTokenizer,
    bert: Bert,
    dimensions: usize,
    device: Device,
}

/// The field of `sentence_bert_config.json` that this program uses.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

impl Encoder {
    /// Loads the model from a directory in the layout of sentence-transformers. `fill` reads the weights file into the
    /// variables; a handler passes `runpod_handler_sdk::torch::load_safetensors`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model does not fit on the device.
    pub fn load<E: From<ModelError>>(
        dir: &Path,
        device: Device,
        fill: impl FnOnce(&mut VarStore, &Path) -> Result<(), E>,
    ) -> Result<Self, E> {
        let config = Config::read(&dir.join("config.json"))?;
        let sentence: SentenceConfig = read_json(&dir.join("sentence_bert_config.json"))?;
        let positions = usize::try_from(config.max_position_embeddings).unwrap_or_default();
        let max_tokens = sentence.max_seq_length.min(positions);
        let tokenizer = TextTokenizer::read(&dir.join("tokenizer.json"), max_tokens)?;
        let weights = dir.join("model.safetensors");
        check_readable(&weights)?;
        let mut variables = VarStore::new(device);
        let bert = Bert::new(&variables.root(), &config);
        fill(&mut variables, &weights)?;
        variables.freeze();
        let dimensions = usize::try_from(config.hidden_size).unwrap_or_default();
        Ok(Self { tokenizer, bert, dimensions, device })
    }

    /// Length of every vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Embeds the texts, and returns their embeddings in the same order. Before each batch, `between` is called with the number of finished texts; its error ends the work.
    ///
    /// # Errors
    /// Those of `between`, and those of the model.
    pub fn embed<E: From<ModelError>>(
        &self,
        texts: &[&str],
        mut between: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Embedding>, E> {
        let ids = self.tokenizer.encode(texts)?;
        // Texts of similar length share a batch, so that it contains little padding.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&i| ids[i].len());
        let mut embeddings = vec![Embedding::default(); ids.len()];
        for (batch, members) in order.chunks(MAX_BATCH).enumerate() {
            between(batch * MAX_BATCH)?;
            let rows: Vec<&[i64]> = members.iter().map(|&i| ids[i].as_slice()).collect();
            for (&i, vector) in members.iter().zip(self.embed_batch(&rows).map_err(ModelError::from)?) {
                embeddings[i] = Embedding { vector, tokens: ids[i].len() };
            }
        }
        Ok(embeddings)
    }

    fn embed_batch(&self, rows: &[&[i64]]) -> Result<Vec<Vec<f32>>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let (ids, mask) = pad(rows, self.device)?;
        let hidden = self.bert.forward(&ids, mask.as_ref())?;
        Vec::try_from(mean_pool(&hidden, mask.as_ref())?)
    }
}

/// Rows of different lengths as one `[rows, longest]` tensor, and the mask of the tokens; `None` when there is no padding.
fn pad(rows: &[&[i64]], device: Device) -> Result<(Tensor, Option<Tensor>), TchError> {
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or_default();
    let mut ids = Vec::with_capacity(rows.len() * longest);
    let mut mask = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        ids.extend_from_slice(row);
        ids.resize(ids.len() + longest - row.len(), PADDING);
        mask.extend((0..longest).map(|i| i < row.len()));
    }
    let shape = [rows.len() as i64, longest as i64];
    let mask = match mask.contains(&false) {
        true => Some(Tensor::f_from_slice(&mask)?.f_view(shape)?.f_to_device(device)?),
        false => None,
    };
    Ok((Tensor::f_from_slice(&ids)?.f_view(shape)?.f_to_device(device)?, mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_rows_are_padded_and_masked() {
        let (ids, mask) = pad(&[&[7, 8], &[9]], Device::Cpu).unwrap();
        assert_eq!(Vec::<Vec<i64>>::try_from(ids).unwrap(), [[7, 8], [9, PADDING]]);
        assert_eq!(Vec::<Vec<bool>>::try_from(mask.unwrap()).unwrap(), [[true, true], [true, false]]);
    }

    #[test]
    fn rows_of_one_length_need_no_mask() {
        assert!(pad(&[&[7, 8], &[9, 1]], Device::Cpu).unwrap().1.is_none());
    }
}
