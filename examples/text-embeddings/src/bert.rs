//! The BERT encoder, after Devlin et al. 2019, with the names that Hugging Face gives the weights.
//!
//! The layers are written with the `f_` functions of `tch`, which return errors; the layers in `tch::nn` panic instead.

use std::path::Path;

use serde::Deserialize;
use tch::Tensor;

use crate::error::{ModelError, read_json};
use crate::weights::Weights;

/// The fields of `config.json` that decide the shape of the network.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Number of tokens known.
    pub vocab_size: i64,
    /// Width of the network, and length of an embedding.
    pub hidden_size: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Number of attention heads in a layer.
    pub num_attention_heads: i64,
    /// Width inside the feed-forward part.
    pub intermediate_size: i64,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: i64,
    /// Number of segment types.
    pub type_vocab_size: i64,
    /// Added to the variance in every layer norm.
    pub layer_norm_eps: f64,
    /// Activation of the feed-forward part; only `gelu`, the exact one, is supported.
    pub hidden_act: String,
}

impl Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// When the file is missing, damaged, or describes a network that this program cannot build.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let this: Self = read_json(path)?;
        if this.hidden_act != "gelu" {
            let reason = format!("hidden_act is {:?}, only \"gelu\" is supported", this.hidden_act);
            return Err(ModelError::invalid(path, &reason));
        }
        if this.num_attention_heads < 1 || this.hidden_size < 1 || this.hidden_size % this.num_attention_heads != 0 {
            let reason = format!(
                "hidden_size {} cannot be split over {} attention heads",
                this.hidden_size, this.num_attention_heads
            );
            return Err(ModelError::invalid(path, &reason));
        }
        Ok(this)
    }
}

/// The encoder: token ids in, one vector per token out.
#[derive(Debug)]
pub struct Bert {
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Takes the encoder's tensors out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn new(config: &Config, weights: &mut Weights) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let mut table =
            |name: &str, rows| weights.take(&format!("embeddings.{name}_embeddings.weight"), &[rows, hidden]);
        Ok(Self {
            word: table("word", config.vocab_size)?,
            position: table("position", config.max_position_embeddings)?,
            // A single text is one segment, so only the first row is ever used.
            segment: table("token_type", config.type_vocab_size)?.f_narrow(0, 0, 1)?,
            norm: LayerNorm::new(config, weights, "embeddings.LayerNorm")?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::new(config, weights, &format!("encoder.layer.{i}")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// `ids` and `mask` are `[batch, length]`, the mask true where there is a token; the result is
    /// `[batch, length, hidden]`. Without a mask every position counts.
    ///
    /// # Errors
    /// When libtorch fails, for example for lack of memory.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let (_, length) = ids.size2()?;
        let embedded = Tensor::f_embedding(&self.word, ids, -1, false, false)?
            .f_add(&self.segment)?
            .f_add(&self.position.f_narrow(0, 0, length)?)?;
        // Every head of every query sees the same keys.
        let mask = mask.map(|mask| mask.f_unsqueeze(1)?.f_unsqueeze(1)).transpose()?;
        self.layers
            .iter()
            .try_fold(self.norm.forward(&embedded)?, |hidden, layer| layer.forward(&hidden, mask.as_ref()))
    }
}

/// Self-attention and feed-forward, each with a residual connection and a layer norm behind it.
#[derive(Debug)]
struct Layer {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attention_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn new(config: &Config, weights: &mut Weights, name: &str) -> Result<Self, ModelError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let mut linear = |part: &str, from, to| Linear::new(weights, &format!("{name}.{part}"), from, to);
        Ok(Self {
            heads: config.num_attention_heads,
            query: linear("attention.self.query", hidden, hidden)?,
            key: linear("attention.self.key", hidden, hidden)?,
            value: linear("attention.self.value", hidden, hidden)?,
            attended: linear("attention.output.dense", hidden, hidden)?,
            widen: linear("intermediate.dense", hidden, wide)?,
            narrow: linear("output.dense", wide, hidden)?,
            attention_norm: LayerNorm::new(config, weights, &format!("{name}.attention.output.LayerNorm"))?,
            output_norm: LayerNorm::new(config, weights, &format!("{name}.output.LayerNorm"))?,
        })
    }

    fn forward(&self, input: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let attention = self.attended.forward(&self.attend(input, mask)?)?;
        let attention = self.attention_norm.forward(&attention.f_add(input)?)?;
        // "none" is the exact GELU, with the error function, and not its tanh approximation.
        let output = self.narrow.forward(&self.widen.forward(&attention)?.f_gelu("none")?)?;
        self.output_norm.forward(&output.f_add(&attention)?)
    }

    fn attend(&self, input: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let (batch, length, hidden) = input.size3()?;
        let split =
            |projected: Tensor| projected.f_view([batch, length, self.heads, hidden / self.heads])?.f_transpose(1, 2);
        let query = split(self.query.forward(input)?)?;
        let key = split(self.key.forward(input)?)?;
        let value = split(self.value.forward(input)?)?;
        let context = Tensor::f_scaled_dot_product_attention(&query, &key, &value, mask, 0.0, false, None, false)?;
        Ok(context.f_transpose(1, 2)?.f_reshape([batch, length, hidden])?)
    }
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(weights: &mut Weights, name: &str, from: i64, to: i64) -> Result<Self, ModelError> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[to, from])?,
            bias: weights.take(&format!("{name}.bias"), &[to])?,
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(input.f_linear(&self.weight, Some(&self.bias))?)
    }
}

#[derive(Debug)]
struct LayerNorm {
    width: i64,
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    fn new(config: &Config, weights: &mut Weights, name: &str) -> Result<Self, ModelError> {
        let width = config.hidden_size;
        Ok(Self {
            width,
            weight: weights.take(&format!("{name}.weight"), &[width])?,
            bias: weights.take(&format!("{name}.bias"), &[width])?,
            epsilon: config.layer_norm_eps,
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(input.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.epsilon, true)?)
    }
}
