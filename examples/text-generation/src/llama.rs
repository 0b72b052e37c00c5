//! The network: a Llama decoder (Touvron et al. 2023) with grouped-query attention, with the names that GGUF gives the weights.
//!
//! Operations are those of `tch` that return an error instead of panicking: running out of memory should fail a job and not cost
//! a reload of the model.

use tch::{Device, Kind, TchError, Tensor};

use crate::cache::Cache;
use crate::error::ModelError;
use crate::gguf::Gguf;

/// The numbers that define the shape of the network.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    layers: i64,
    hidden: i64,
    feed_forward: i64,
    heads: i64,
    /// Heads of keys and values; each serves several heads of queries.
    kv_heads: i64,
    pub(crate) context: i64,
    epsilon: f64,
    rope_base: f64,
}

impl Config {
    pub(crate) fn read(file: &Gguf) -> Result<Self, ModelError> {
        let architecture = file.text("general.architecture")?;
        if architecture != "llama" {
            return Err(file.invalid(format!("its architecture is {architecture:?}, only \"llama\" is supported")));
        }
        let this = Self {
            layers: file.integer("llama.block_count")?,
            hidden: file.integer("llama.embedding_length")?,
            feed_forward: file.integer("llama.feed_forward_length")?,
            heads: file.integer("llama.attention.head_count")?,
            kv_heads: file.integer("llama.attention.head_count_kv")?,
            context: file.integer("llama.context_length")?,
            epsilon: file.float("llama.attention.layer_norm_rms_epsilon")?,
            rope_base: file.float("llama.rope.freq_base")?,
        };
        let sizes = [this.layers, this.hidden, this.feed_forward, this.heads, this.kv_heads, this.context];
        let whole = sizes.iter().all(|size| (1..=1 << 20).contains(size))
            && this.hidden % (2 * this.heads) == 0
            && this.heads % this.kv_heads == 0;
        if whole { Ok(this) } else { Err(file.invalid("the sizes of its network do not fit together")) }
    }

    /// Width of a head.
    fn width(&self) -> i64 {
        self.hidden / self.heads
    }

    /// An empty cache for this network.
    pub(crate) fn cache(&self, device: Device) -> Result<Cache, TchError> {
        Cache::new(self.layers, self.kv_heads * self.width(), device)
    }
}

/// The tokens of one pass through the network, and where they belong in the cache.
#[derive(Debug)]
pub(crate) struct Pass {
    /// `[rows, tokens]`.
    ids: Tensor,
    /// Of each token in the cache of a layer, seen as a list: `[rows × tokens]`.
    places: Tensor,
    /// Of each token in its text: `[rows × tokens]`.
    positions: Tensor,
    /// Which positions each token may look at: `[rows, 1, group × tokens, length]`.
    mask: Tensor,
    first_row: i64,
    length: i64,
}

impl Pass {
    /// A pass with the same number of tokens in each of some rows, of which `first_row` is the first. `starts` are the positions of
    /// the first token in each row.
    pub(crate) fn new(
        config: &Config,
        cache: &Cache,
        (first_row, starts): (i64, &[i64]),
        ids: &[i64],
        device: Device,
    ) -> Result<Self, TchError> {
        let rows = starts.len() as i64;
        let tokens = ids.len() as i64 / rows;
        let length = starts.iter().max().unwrap_or(&0) + tokens;
        let positions: Vec<i64> = starts.iter().flat_map(|&start| start..start + tokens).collect();
        let places: Vec<i64> = positions
            .iter()
            .zip(0..)
            .map(|(position, index)| (first_row + index / tokens) * cache.length() + position)
            .collect();
        let positions = Tensor::f_from_slice(&positions)?.f_to_device(device)?;
        let columns = Tensor::f_arange(length, (Kind::Int64, device))?;
        let mask = columns.f_le_tensor(&positions.f_view([rows, 1, tokens, 1])?)?;
        Ok(Self {
            ids: Tensor::f_from_slice(ids)?.f_view([rows, tokens])?.f_to_device(device)?,
            places: Tensor::f_from_slice(&places)?.f_to_device(device)?,
            mask: mask.f_repeat([1, 1, config.heads / config.kv_heads, 1])?,
            positions,
            first_row,
            length,
        })
    }
}

/// The network with its weights.
#[derive(Debug)]
pub(crate) struct Llama {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Rotation of each pair of numbers at each position, as complex numbers: `[positions, 1, width / 2]`.
    rotations: Tensor,
}

impl Llama {
    /// Reads the weights. `progress` is called after each layer with the numbers of layers that are done.
    pub(crate) fn read(
        file: &mut Gguf,
        config: Config,
        vocabulary: i64,
        device: Device,
        mut progress: impl FnMut(i64, i64),
    ) -> Result<Self, ModelError> {
        let embedding = file.tensor("token_embd.weight", &[vocabulary, config.hidden], device)?;
        let mut layers = Vec::new();
        for index in 0..config.layers {
            layers.push(Layer::read(file, &config, index, device)?);
            progress(index + 1, config.layers);
        }
        let norm = file.tensor("output_norm.weight", &[config.hidden], device)?;
        let rotations = rotations(&config, device)?;
        Ok(Self { config, embedding, layers, norm, rotations })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Runs a pass, and returns what follows the last token of each row: `[rows, vocabulary]`, not normalized.
    pub(crate) fn forward(&self, pass: &Pass, cache: &Cache) -> Result<Tensor, TchError> {
        let (rows, tokens) = pass.ids.size2()?;
        let rotation = self.rotations.f_index_select(0, &pass.positions)?.f_view([rows, tokens, 1, -1])?;
        let mut hidden = Tensor::f_embedding(&self.embedding, &pass.ids, -1, false, false)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normal = self.normalize(&hidden, &layer.attention_norm)?;
            hidden = hidden.f_add(&self.attend(layer, index, &normal, &rotation, pass, cache)?)?;
            let normal = self.normalize(&hidden, &layer.feed_forward_norm)?;
            hidden = hidden.f_add(&layer.feed_forward(&normal)?)?;
        }
        let last = self.normalize(&hidden.f_select(1, tokens - 1)?, &self.norm)?;
        last.f_linear(&self.embedding, None::<&Tensor>)
    }

    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        input: &Tensor,
        rotation: &Tensor,
        pass: &Pass,
        cache: &Cache,
    ) -> Result<Tensor, TchError> {
        let (rows, tokens, hidden) = input.size3()?;
        let Config { heads, kv_heads, .. } = self.config;
        let (width, group) = (self.config.width(), heads / kv_heads);
        let projected =
            input.f_linear(&layer.projection, None::<&Tensor>)?.f_view([rows, tokens, heads + 2 * kv_heads, width])?;
        let rotated = rotate(&projected.f_narrow(2, 0, heads + kv_heads)?, rotation)?;
        let flat = |tensor: &Tensor| tensor.f_reshape([rows * tokens, kv_heads * width]);
        let keys = flat(&rotated.f_narrow(2, heads, kv_heads)?)?;
        let values = flat(&projected.f_narrow(2, heads + kv_heads, kv_heads)?)?;
        let (keys, values) =
            cache.extend(index, &pass.places, (&keys, &values), (pass.first_row, rows, pass.length))?;
        let by_head = |tensor: &Tensor| tensor.f_view([rows, pass.length, kv_heads, width])?.f_transpose(1, 2);
        // The queries that share keys are treated as further tokens, so that keys and values need not be copied for each.
        let queries = rotated
            .f_narrow(2, 0, heads)?
            .f_view([rows, tokens, kv_heads, group, width])?
            .f_permute([0, 2, 3, 1, 4])?
            .f_reshape([rows, kv_heads, group * tokens, width])?;
        let (keys, values) = (by_head(&keys)?, by_head(&values)?);
        let mask = Some(&pass.mask);
        let context = Tensor::f_scaled_dot_product_attention(&queries, &keys, &values, mask, 0.0, false, None, false)?;
        context
            .f_view([rows, kv_heads, group, tokens, width])?
            .f_permute([0, 3, 1, 2, 4])?
            .f_reshape([rows, tokens, hidden])?
            .f_linear(&layer.output, None::<&Tensor>)
    }

    fn normalize(&self, input: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
        input.f_rms_norm([self.config.hidden], Some(weight), self.config.epsilon)
    }
}

/// Weights of one layer. Matrices that are applied to the same input are one matrix.
#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    /// Queries, keys and values.
    projection: Tensor,
    output: Tensor,
    feed_forward_norm: Tensor,
    /// Gate and up.
    widen: Tensor,
    narrow: Tensor,
}

impl Layer {
    fn read(file: &mut Gguf, config: &Config, index: i64, device: Device) -> Result<Self, ModelError> {
        let &Config { hidden, feed_forward, .. } = config;
        let keys = config.kv_heads * config.width();
        let mut tensor = |name: &str, shape: &[i64]| file.tensor(&format!("blk.{index}.{name}.weight"), shape, device);
        let projection = [
            tensor("attn_q", &[hidden, hidden])?,
            tensor("attn_k", &[keys, hidden])?,
            tensor("attn_v", &[keys, hidden])?,
        ];
        let widen = [tensor("ffn_gate", &[feed_forward, hidden])?, tensor("ffn_up", &[feed_forward, hidden])?];
        Ok(Self {
            attention_norm: tensor("attn_norm", &[hidden])?,
            projection: Tensor::f_cat(&projection, 0)?,
            output: tensor("attn_output", &[hidden, hidden])?,
            feed_forward_norm: tensor("ffn_norm", &[hidden])?,
            widen: Tensor::f_cat(&widen, 0)?,
            narrow: tensor("ffn_down", &[hidden, feed_forward])?,
        })
    }

    fn feed_forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let wide = input.f_linear(&self.widen, None::<&Tensor>)?;
        let halves = wide.f_chunk(2, -1)?;
        halves[0].f_silu()?.f_mul(&halves[1])?.f_linear(&self.narrow, None::<&Tensor>)
    }
}

/// Rotary position embedding (Su et al. 2021): pair `i` turns by `position / base^(2i / width)`.
fn rotations(config: &Config, device: Device) -> Result<Tensor, TchError> {
    let pairs = config.width() / 2;
    let speeds: Vec<f64> =
        (0..pairs).map(|pair| config.rope_base.powf(-2.0 * pair as f64 / config.width() as f64)).collect();
    let positions = Tensor::f_arange(config.context, (Kind::Float, device))?.f_view([-1, 1, 1])?;
    let angles = positions.f_mul(&Tensor::f_from_slice(&speeds)?.f_to_kind(Kind::Float)?.f_to_device(device)?)?;
    Tensor::f_polar(&angles.f_ones_like()?, &angles)
}

/// Turns each pair of neighbouring numbers of `[rows, tokens, heads, width]`. GGUF stores the weights of queries and keys in this
/// order.
fn rotate(input: &Tensor, rotation: &Tensor) -> Result<Tensor, TchError> {
    let (rows, tokens, heads, width) = input.size4()?;
    let pairs = input.f_reshape([rows, tokens, heads, width / 2, 2])?.f_view_as_complex()?;
    pairs.f_mul(rotation)?.f_view_as_real()?.f_view([rows, tokens, heads, width])
}
