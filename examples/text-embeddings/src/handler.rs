//! The implementation of `BatchHandler`: jobs that wait at the same time go through the network together.

use std::path::{Path, PathBuf};

use runpod_handler_sdk::torch::load_safetensors;
use runpod_handler_sdk::{BatchHandler, BatchItem, BatchLimits, HandlerError, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoder::{Embedding, Encoder};
use crate::input::Texts;
use crate::precision::Precision;

/// Environment variable with the directory of the model.
const MODEL_DIR_VARIABLE: &str = "TEXT_EMBEDDINGS_MODEL_DIR";
/// Default directory of the model, where `make model` puts it.
const DEFAULT_MODEL_DIR: &str = ".models/all-MiniLM-L6-v2";

/// Most jobs in a batch.
const MAX_JOBS: u32 = 64;
/// Most tokens in a batch, estimated. A job with more texts fills a batch alone.
const MAX_TOKENS: u64 = 8192;
/// Most tokens of a text; the model cuts longer ones.
const MAX_TOKENS_OF_TEXT: usize = 256;
/// Bytes of English text that make one token, about.
const BYTES_PER_TOKEN: usize = 4;

/// The model of one slot.
#[derive(Debug)]
pub struct TextEmbeddings {
    name: String,
    encoder: Encoder,
}

/// A job's `input`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Input {
    /// Model to use, by default the loaded one.
    pub model: Option<String>,
    /// The texts to embed: one text, or a list. A text over the model's limit (256 tokens for all-MiniLM-L6-v2) is cut.
    pub input: Texts,
}

/// A job's `output`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The model that was used.
    pub model: String,
    /// Length of every vector.
    pub dimensions: usize,
    /// One unit vector per text, in the order of the texts.
    pub embeddings: Vec<Vec<f32>>,
    /// Number of tokens after cutting long texts.
    pub tokens: usize,
}

/// Progress of a job, in texts.
#[derive(Debug, Serialize)]
struct Progress {
    done: usize,
    total: usize,
}

impl TextEmbeddings {
    /// The name of a model is that of its directory; Hugging Face prefixes it with the name of an organization.
    fn check_model(&self, wanted: Option<&str>) -> Result<(), HandlerError> {
        let Some(wanted) = wanted else { return Ok(()) };
        let short = wanted.strip_prefix("sentence-transformers/").unwrap_or(wanted);
        if short == self.name {
            return Ok(());
        }
        let message = format!("there is no model {wanted:?} here; available: {:?}", self.name);
        Err(HandlerError::model_not_found(message))
    }

    fn output(&self, item: &BatchItem<Input, NoChunks>, embeddings: Vec<Embedding>) -> Output {
        let tokens = embeddings.iter().map(|embedding| embedding.tokens).sum();
        item.job.record("texts", embeddings.len() as f64);
        item.job.record("tokens", tokens as f64);
        Output {
            model: self.name.clone(),
            dimensions: self.encoder.dimensions(),
            embeddings: embeddings.into_iter().map(|embedding| embedding.vector).collect(),
            tokens,
        }
    }
}

impl BatchHandler for TextEmbeddings {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const NAME: Option<&'static str> = Some("text-embeddings");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    fn limits() -> BatchLimits {
        BatchLimits::items(MAX_JOBS).cost(MAX_TOKENS)
    }

    fn cost(input: &Input) -> u64 {
        let tokens = |text: &&str| (text.len() / BYTES_PER_TOKEN + 2).min(MAX_TOKENS_OF_TEXT) as u64;
        input.input.texts().iter().map(tokens).sum::<u64>().min(MAX_TOKENS)
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let dir = std::env::var_os(MODEL_DIR_VARIABLE).map_or_else(|| DEFAULT_MODEL_DIR.into(), PathBuf::from);
        let precision = Precision::of_environment()?;
        let encoder = Encoder::load(&dir, env.device()?, precision, |variables, path| {
            load_safetensors(variables, path, env).map_err(HandlerError::from)
        })?;
        Ok(Self { name: model_name(&dir), encoder })
    }

    /// The first pass through the network allocates memory. The two texts form a padded batch, which also uses the mask.
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        self.encoder.embed(&["warm", "up with another length"], |_| Ok::<_, HandlerError>(()))?;
        Ok(self.encoder.warm_up()?)
    }

    fn run_batch(
        &mut self,
        items: &[BatchItem<Input, NoChunks>],
    ) -> Result<Vec<Result<Output, HandlerError>>, HandlerError> {
        let models: Vec<Result<(), HandlerError>> =
            items.iter().map(|item| self.check_model(item.input.model.as_deref())).collect();
        // The texts of all jobs, one job after another.
        let mut texts = Vec::new();
        for (item, model) in items.iter().zip(&models) {
            if model.is_ok() {
                texts.extend(item.input.input.texts());
            }
        }
        let embeddings = self.encoder.embed(&texts, |done| {
            // A batch of several jobs ends soon; a job with many texts is alone.
            if let [item] = items {
                item.job.stop_point()?;
                item.job.progress(Progress { done, total: texts.len() });
            }
            Ok::<_, HandlerError>(())
        })?;
        let mut embeddings = embeddings.into_iter();
        let mut results = Vec::with_capacity(items.len());
        for (item, model) in items.iter().zip(models) {
            let count = item.input.input.texts().len();
            results.push(model.map(|()| self.output(item, embeddings.by_ref().take(count).collect())));
        }
        Ok(results)
    }
}

fn model_name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
