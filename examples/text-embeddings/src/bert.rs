//! The BERT encoder, after Devlin et al. 2019, with the names that Hugging Face gives the weights.
//!
//! The layers are those of `tch::nn`, but without their `forward`, which panics where the `f_` functions return an error: running
//! out of memory should fail one job and not cost a reload of the model.

use std::path::Path;

use serde::Deserialize;
use tch::nn::{Init, LayerNorm, LayerNormConfig, Linear, LinearConfig, Path as VarPath, layer_norm, linear};
use tch::{TchError, Tensor};

use crate::error::{ModelError, read_json};

/// The fields of `config.json` that define the shape of the network.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Number of tokens in the vocabulary.
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
    /// When the file is missing or damaged, or describes a network that this program cannot build.
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

/// Initial value of all variables. It need not be random, because the weights file overwrites it.
const UNSET: Init = Init::Const(0.0);

/// The encoder, which turns token ids into one vector per token.
#[derive(Debug)]
pub struct Bert {
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    epsilon: f64,
}

impl Bert {
    /// Declares the encoder's variables under `root`; their values come from the weights file.
    pub fn new(root: &VarPath<'_>, config: &Config) -> Self {
        let path = root / "embeddings";
        let table = |name: &str, rows| (&path / name).var("weight", &[rows, config.hidden_size], UNSET);
        let layer = |i| Layer::new(&(root / "encoder" / "layer" / i), config);
        Self {
            word: table("word_embeddings", config.vocab_size),
            position: table("position_embeddings", config.max_position_embeddings),
            segment: table("token_type_embeddings", config.type_vocab_size),
            norm: norm_layer(&path, config),
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            epsilon: config.layer_norm_eps,
        }
    }

    /// `ids` and `mask` are `[batch, length]`, the mask true where there is a token; the result is
    /// `[batch, length, hidden]`. Without a mask every position is a token.
    ///
    /// # Errors
    /// When libtorch fails, for example when it runs out of memory.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
        let (_, length) = ids.size2()?;
        let embedded = Tensor::f_embedding(&self.word, ids, -1, false, false)?
            // A text is a single segment: the first.
            .f_add(&self.segment.f_narrow(0, 0, 1)?)?
            .f_add(&self.position.f_narrow(0, 0, length)?)?;
        // The mask is the same for every head and every query.
        let mask = mask.map(|mask| mask.f_unsqueeze(1)?.f_unsqueeze(1)).transpose()?;
        let first = normalize(&self.norm, self.epsilon, &embedded)?;
        self.layers.iter().try_fold(first, |hidden, layer| layer.forward(&hidden, mask.as_ref()))
    }
}

/// Self-attention and feed-forward network, each followed by a residual connection and a layer norm.
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
    epsilon: f64,
}

impl Layer {
    fn new(path: &VarPath<'_>, config: &Config) -> Self {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let attention = path / "attention";
        let (inner, outer) = (&attention / "self", &attention / "output");
        Self {
            heads: config.num_attention_heads,
            query: dense(&(&inner / "query"), hidden, hidden),
            key: dense(&(&inner / "key"), hidden, hidden),
            value: dense(&(&inner / "value"), hidden, hidden),
            attended: dense(&(&outer / "dense"), hidden, hidden),
            attention_norm: norm_layer(&outer, config),
            widen: dense(&(path / "intermediate" / "dense"), hidden, wide),
            narrow: dense(&(path / "output" / "dense"), wide, hidden),
            output_norm: norm_layer(&(path / "output"), config),
            epsilon: config.layer_norm_eps,
        }
    }

    fn forward(&self, input: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
        let attention = apply(&self.attended, &self.attend(input, mask)?)?;
        let attention = normalize(&self.attention_norm, self.epsilon, &attention.f_add(input)?)?;
        // "none" is the exact GELU, with the error function, and not its tanh approximation.
        let output = apply(&self.narrow, &apply(&self.widen, &attention)?.f_gelu("none")?)?;
        normalize(&self.output_norm, self.epsilon, &output.f_add(&attention)?)
    }

    fn attend(&self, input: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
        let (batch, length, hidden) = input.size3()?;
        let project = |layer: &Linear| {
            apply(layer, input)?.f_view([batch, length, self.heads, hidden / self.heads])?.f_transpose(1, 2)
        };
        let (query, key, value) = (project(&self.query)?, project(&self.key)?, project(&self.value)?);
        let context = Tensor::f_scaled_dot_product_attention(&query, &key, &value, mask, 0.0, false, None, false)?;
        context.f_transpose(1, 2)?.f_reshape([batch, length, hidden])
    }
}

fn dense(path: &VarPath<'_>, from: i64, to: i64) -> Linear {
    linear(path, from, to, LinearConfig { ws_init: UNSET, bs_init: Some(UNSET), bias: true })
}

fn norm_layer(path: &VarPath<'_>, config: &Config) -> LayerNorm {
    layer_norm(path / "LayerNorm", vec![config.hidden_size], LayerNormConfig::default())
}

fn apply(layer: &Linear, input: &Tensor) -> Result<Tensor, TchError> {
    input.f_linear(&layer.ws, layer.bs.as_ref())
}

fn normalize(layer: &LayerNorm, epsilon: f64, input: &Tensor) -> Result<Tensor, TchError> {
    input.f_layer_norm(layer.normalized_shape.as_slice(), layer.ws.as_ref(), layer.bs.as_ref(), epsilon, true)
}
