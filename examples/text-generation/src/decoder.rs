//! The whole model: sequences of tokens in, what may follow them out.

use std::path::Path;

use tch::{Device, TchError, Tensor};

use crate::cache::{Cache, Row};
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::llama::{Config, Llama, Pass};
use crate::vocabulary::Vocabulary;

/// Most tokens of a prompt in one pass: a job that is cancelled ends between two passes.
const MAX_PASS: usize = 256;

/// A loaded model, with the cache of its sequences.
#[derive(Debug)]
pub struct Decoder {
    vocabulary: Vocabulary,
    network: Llama,
    cache: Cache,
    device: Device,
}

/// A text that the model has read, and may go on with. It occupies a row of the cache until it is dropped.
#[derive(Debug)]
pub struct Text {
    row: Row,
    /// Number of tokens in the cache.
    length: i64,
}

impl Decoder {
    /// Loads the model from a GGUF file. `progress` is called with the numbers of layers that are loaded, and of all.
    ///
    /// # Errors
    /// When the file is missing or damaged, or the model does not fit on the device.
    pub fn load(path: &Path, device: Device, progress: impl FnMut(i64, i64)) -> Result<Self, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let mut file = Gguf::open(path)?;
        let config = Config::read(&file)?;
        let vocabulary = Vocabulary::read(&file)?;
        let cache = config.cache(device)?;
        let network = Llama::read(&mut file, config, vocabulary.len(), device, progress)?;
        Ok(Self { vocabulary, network, cache, device })
    }

    /// Most tokens of a text.
    pub fn context(&self) -> i64 {
        self.network.config().context
    }

    /// The tokens of a text. Names of special tokens in it are ordinary text.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        self.vocabulary.encode(text)
    }

    /// The tokens of a chat, given as pairs of role and content, up to the beginning of the model's answer.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_chat<'a>(
        &self,
        messages: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<i64>, ModelError> {
        self.vocabulary.encode_chat(messages)
    }

    /// The bytes that a token adds to the text. They need not be whole characters.
    pub fn bytes(&self, token: i64) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    /// Whether the model says with this token that it has finished.
    pub fn is_end(&self, token: i64) -> bool {
        self.vocabulary.is_end(token)
    }

    /// Reads the tokens of a prompt, at least one. Returns the text and a score for each token that may follow, `[1, tokens]`. Before each
    /// pass through the network, `between` is called; its error ends the work.
    ///
    /// # Errors
    /// Those of `between`, and those of the network.
    pub fn read<E: From<ModelError>>(
        &mut self,
        prompt: &[i64],
        mut between: impl FnMut() -> Result<(), E>,
    ) -> Result<(Text, Tensor), E> {
        let _no_grad = tch::no_grad_guard();
        let mut text = Text { row: self.cache.add_row().map_err(ModelError::from)?, length: 0 };
        let mut scores = None;
        for ids in prompt.chunks(MAX_PASS) {
            between()?;
            let row = text.row.index();
            scores = Some(self.pass(row, &[text.length], ids).map_err(ModelError::from)?);
            text.length += ids.len() as i64;
        }
        Ok((text, scores.ok_or(ModelError::EmptyPrompt)?))
    }

    /// Appends one token to each of these texts, at least one, in one pass if these are all texts that exist. Returns, for each, a score
    /// for each token that may follow: `[texts, tokens]`. A text with [`context`](Self::context) tokens cannot go on.
    ///
    /// # Errors
    /// Those of the network.
    pub fn step(&mut self, texts: &mut [(&mut Text, i64)]) -> Result<Tensor, ModelError> {
        let _no_grad = tch::no_grad_guard();
        self.cache.close_gaps()?;
        // Row by row, whatever the order of the texts.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].0.row.index());
        let row = |index: usize| texts[index].0.row.index();
        let mut scores = Vec::new();
        for together in order.chunk_by(|&index, &next| row(index) + 1 == row(next)) {
            let starts: Vec<i64> = together.iter().map(|&index| texts[index].0.length).collect();
            let ids: Vec<i64> = together.iter().map(|&index| texts[index].1).collect();
            scores.push(self.pass(row(together[0]), &starts, &ids)?);
        }
        texts.iter_mut().for_each(|text| text.0.length += 1);
        let scores = Tensor::f_cat(&scores, 0)?;
        if order.is_sorted() {
            return Ok(scores);
        }
        let mut places = vec![0; order.len()];
        order.iter().zip(0_i64..).for_each(|(&index, place)| places[index] = place);
        Ok(scores.f_index_select(0, &Tensor::f_from_slice(&places)?.f_to_device(self.device)?)?)
    }

    fn pass(&mut self, first_row: i64, starts: &[i64], ids: &[i64]) -> Result<Tensor, TchError> {
        let tokens = ids.len() / starts.len();
        self.cache.reserve(starts.iter().max().unwrap_or(&0) + tokens as i64)?;
        let pass = Pass::new(self.network.config(), &self.cache, (first_row, starts), ids, self.device)?;
        self.network.forward(&pass, &self.cache)
    }
}

impl Text {
    /// Number of tokens that the model has read of it.
    pub fn length(&self) -> i64 {
        self.length
    }
}
