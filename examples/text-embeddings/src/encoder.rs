//! The whole model, from texts to unit vectors.

use std::path::Path;

use serde::Deserialize;
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use crate::bert::{Bert, Config};
use crate::error::{ModelError, check_readable, read_json};
use crate::pooling::mean_pool;
use crate::precision::Precision;
use crate::tokenizer::TextTokenizer;

/// Most texts in one batch: enough to fill a CPU, and few enough that a cancelled job ends soon.
const MAX_BATCH: usize = 32;
/// The same on a GPU, which has a hundred times the speed.
const MAX_BATCH_GPU: usize = 128;
/// On a GPU the length of a batch is a multiple of this: its matrix units want it, and there are fewer shapes.
const STEP_GPU: usize = 8;
/// Shapes whose kernels a GPU has chosen and loaded before the first job: numbers of texts, and their lengths.
const WARM_ROWS: [usize; 3] = [1, 8, MAX_BATCH_GPU];
const WARM_TOKENS: [usize; 5] = [16, 32, 64, 128, 256];
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
    max_tokens: usize,
    device: Device,
}

/// The field of `sentence_bert_config.json` that this program uses.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

impl Encoder {
    /// Loads the model from a directory in the layout of sentence-transformers. `fill` reads the weights file into the
    /// variables, and converts them; a handler passes `runpod_handler_sdk::torch::load_safetensors`.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the model does not fit on the device.
    pub fn load<E: From<ModelError>>(
        dir: &Path,
        device: Device,
        precision: Precision,
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
        variables.set_kind(precision.kind());
        fill(&mut variables, &weights)?;
        variables.freeze();
        let dimensions = usize::try_from(config.hidden_size).unwrap_or_default();
        Ok(Self { tokenizer, bert, dimensions, max_tokens, device })
    }

    /// Length of every vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Runs the network once in each shape that is slow the first time: on a GPU, where the kernels of a shape are chosen and loaded
    /// when it first occurs. Does nothing on a CPU.
    ///
    /// # Errors
    /// Those of the model.
    pub fn warm_up(&self) -> Result<(), ModelError> {
        if !self.device.is_cuda() {
            return Ok(());
        }
        self.warm_up_in(&WARM_ROWS, &WARM_TOKENS)
    }

    fn warm_up_in(&self, rows: &[usize], lengths: &[usize]) -> Result<(), ModelError> {
        for &length in lengths.iter().filter(|&&length| length <= self.max_tokens) {
            for &rows in rows {
                let row = vec![PADDING; length];
                // The last text is shorter, so that there is a mask, as in nearly every batch.
                let mut batch = vec![row.as_slice(); rows];
                if let Some(last) = batch.last_mut() {
                    *last = &row[1..];
                }
                self.embed_batch(&batch)?;
            }
        }
        Ok(())
    }

    fn max_batch(&self) -> usize {
        if self.device.is_cuda() { MAX_BATCH_GPU } else { MAX_BATCH }
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
        let max_batch = self.max_batch();
        for (batch, members) in order.chunks(max_batch).enumerate() {
            between(batch * max_batch)?;
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
        // Sums of many numbers need more digits than half precision has.
        let hidden = self.bert.forward(&ids, mask.as_ref())?.f_to_kind(Kind::Float)?;
        Vec::try_from(mean_pool(&hidden, mask.as_ref())?)
    }
}

/// Rows of different lengths as one `[rows, longest]` tensor, and the mask of the tokens; `None` when there is no padding.
fn pad(rows: &[&[i64]], device: Device) -> Result<(Tensor, Option<Tensor>), TchError> {
    let step = if device.is_cuda() { STEP_GPU } else { 1 };
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or_default().next_multiple_of(step);
    let mut ids = Vec::with_capacity(rows.len() * longest);
    let mut mask = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        ids.extend_from_slice(row);
        ids.resize(ids.len() + longest - row.len(), PADDING);
        mask.extend((0..longest).map(|i| i < row.len()));
    }
    let shape = [rows.len() as i64, longest as i64];
    let mask = match mask.contains(&false) {
        true => Some(upload(&Tensor::f_from_slice(&mask)?.f_view(shape)?, device)?),
        false => None,
    };
    Ok((upload(&Tensor::f_from_slice(&ids)?.f_view(shape)?, device)?, mask))
}

/// To the device. From pinned memory a GPU fetches it by itself, and the CPU goes on; libtorch keeps the memory until then.
fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    if !device.is_cuda() {
        return tensor.f_to_device(device);
    }
    let is_asynchronous = true;
    tensor.f_pin_memory(device)?.f_to_device_(device, tensor.kind(), is_asynchronous, false)
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
    fn the_shapes_of_the_warm_up_run_and_those_over_the_models_limit_are_left_out() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2");
        let fill = |variables: &mut VarStore, path: &Path| variables.load(path).map_err(ModelError::from);
        let encoder = Encoder::load(&dir, Device::Cpu, Precision::Bf16, fill).unwrap();
        // The longest one would need more positions than the model has.
        encoder.warm_up_in(&[1, 2], &[16, 100_000]).unwrap();
        assert!(WARM_TOKENS.contains(&encoder.max_tokens), "the longest text is warm too");
        assert!(WARM_TOKENS.iter().all(|length| length % STEP_GPU == 0), "shapes that occur");
    }

    #[test]
    fn rows_of_one_length_need_no_mask() {
        assert!(pad(&[&[7, 8], &[9, 1]], Device::Cpu).unwrap().1.is_none());
    }
}
