//! From text to tokens and back: the byte-level BPE vocabulary that the model's file contains.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use crate::error::ModelError;
use crate::gguf::Gguf;

/// Begins and ends a message of a chat.
const MESSAGE_START: &str = "<|im_start|>";
const MESSAGE_END: &str = "<|im_end|>";
/// Ends a text that is not a chat.
const TEXT_END: &str = "<|endoftext|>";
/// Type of special tokens in the file.
const CONTROL: i64 = 3;
/// What the model was told in training when a chat has no system message.
const DEFAULT_SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// The model's vocabulary.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    /// The bytes of each token. A token need not be a whole character.
    bytes: Vec<Box<[u8]>>,
    message_start: i64,
    message_end: i64,
    text_end: i64,
}

impl Vocabulary {
    pub(crate) fn read(file: &Gguf) -> Result<Self, ModelError> {
        let (model, split) = (file.text("tokenizer.ggml.model")?, file.text("tokenizer.ggml.pre")?);
        if (model, split) != ("gpt2", "smollm") {
            return Err(file.invalid(format!("its tokenizer is {model}/{split}, only gpt2/smollm is supported")));
        }
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        let mut merges = Vec::new();
        for merge in file.texts("tokenizer.ggml.merges")? {
            let pair = merge.split_once(' ').ok_or_else(|| file.invalid("a merge of its tokenizer is not a pair"))?;
            merges.push((pair.0.to_owned(), pair.1.to_owned()));
        }
        let ids: HashMap<&str, i64> = tokens.iter().copied().zip(0..).collect();
        let special =
            |name| ids.get(name).copied().ok_or_else(|| file.invalid(format!("its vocabulary has no {name}")));
        let vocab: Vocab = tokens.iter().map(|&token| token.to_owned()).zip(0..).collect();
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).build();
        let mut tokenizer = Tokenizer::new(bpe.map_err(|error| file.invalid(error.to_string()))?);
        // Every digit is a token of its own.
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ])));
        let letters = byte_letters();
        let bytes = tokens.iter().zip(file.integers("tokenizer.ggml.token_type")?).map(|(token, kind)| match kind {
            // Special tokens structure the text, but are no part of it.
            CONTROL => Box::default(),
            _ => token.chars().filter_map(|letter| letters.get(&letter).copied()).collect(),
        });
        Ok(Self {
            tokenizer,
            bytes: bytes.collect(),
            message_start: special(MESSAGE_START)?,
            message_end: special(MESSAGE_END)?,
            text_end: special(TEXT_END)?,
        })
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> i64 {
        self.bytes.len() as i64
    }

    /// The tokens of a text. Names of special tokens in it are ordinary text, so that an input cannot end its own message.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|error| ModelError::Tokenize(error.to_string()))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// The tokens of a chat, given as pairs of role and content, up to the beginning of the model's answer.
    pub(crate) fn encode_chat<'a>(
        &self,
        messages: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<i64>, ModelError> {
        let mut messages = messages.into_iter().peekable();
        let system = messages.next_if(|message| message.0 == "system").unwrap_or(("system", DEFAULT_SYSTEM));
        let line_end = self.encode("\n")?;
        let mut ids = Vec::new();
        for (role, content) in std::iter::once(system).chain(messages) {
            ids.push(self.message_start);
            ids.extend(self.encode(&format!("{role}\n{content}"))?);
            ids.push(self.message_end);
            ids.extend(&line_end);
        }
        ids.push(self.message_start);
        ids.extend(self.encode("assistant\n")?);
        Ok(ids)
    }

    /// The bytes that a token adds to the text.
    pub(crate) fn bytes(&self, token: i64) -> &[u8] {
        usize::try_from(token).ok().and_then(|token| self.bytes.get(token)).map_or(&[], |bytes| bytes)
    }

    /// Whether the model says with this token that it has finished.
    pub(crate) fn is_end(&self, token: i64) -> bool {
        token == self.message_end || token == self.text_end
    }
}

/// The letters by which a byte-level vocabulary writes bytes: printable characters of Latin-1 stand for themselves, the others
/// are written as the letters from U+0100 on.
fn byte_letters() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=u8::MAX).filter(|byte| !printable(byte)).zip('\u{100}'..);
    let themselves = (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte));
    themselves.chain(others.map(|(byte, letter)| (letter, byte))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let letters = byte_letters();
        assert_eq!(letters.len(), 256);
        assert_eq!(letters[&'A'], b'A');
        assert_eq!(letters[&'Ġ'], b' ');
        assert_eq!(letters[&'Ċ'], b'\n');
    }
}
