//! The handler: what the worker calls.

use std::path::{Path, PathBuf};

use runpod_handler_sdk::torch::load_safetensors;
use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoder::Encoder;
use crate::input::Texts;

/// Where the model is, when the default is not it.
const MODEL_DIR_VARIABLE: &str = "TEXT_EMBEDDINGS_MODEL_DIR";
/// Where `make model` puts it.
const DEFAULT_MODEL_DIR: &str = ".models/all-MiniLM-L6-v2";

/// One slot's model.
#[derive(Debug)]
pub struct TextEmbeddings {
    name: String,
    encoder: Encoder,
}

/// A job's `input`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Input {
    /// Model to use; by default the one that is loaded.
    pub model: Option<String>,
    /// What to embed: one text, or a list of texts. Texts over the model's limit, 256 tokens for all-MiniLM-L6-v2, are cut.
    pub input: Texts,
}

/// A job's `output`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// Model that was used.
    pub model: String,
    /// Length of every vector.
    pub dimensions: usize,
    /// One vector of length 1 per text, in the order of the texts.
    pub embeddings: Vec<Vec<f32>>,
    /// Tokens that went through the network, after cutting long texts.
    pub tokens: usize,
}

/// The newest progress of a job.
#[derive(Debug, Serialize)]
struct Progress {
    done: usize,
    total: usize,
}

impl TextEmbeddings {
    /// A model's name is that of its folder; Hugging Face prefixes it with the name of an organisation.
    fn check_model(&self, wanted: &str) -> Result<(), HandlerError> {
        let short = wanted.strip_prefix("sentence-transformers/").unwrap_or(wanted);
        if short == self.name {
            return Ok(());
        }
        let message = format!("there is no model {wanted:?} here; available: {:?}", self.name);
        Err(HandlerError::model_not_found(message))
    }
}

impl Handler for TextEmbeddings {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const NAME: Option<&'static str> = Some("text-embeddings");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let folder = std::env::var_os(MODEL_DIR_VARIABLE).map_or_else(|| DEFAULT_MODEL_DIR.into(), PathBuf::from);
        let encoder = Encoder::load(&folder, env.device()?, |variables, path| {
            load_safetensors(variables, path, env).map_err(HandlerError::from)
        })?;
        Ok(Self { name: model_name(&folder), encoder })
    }

    /// The first pass through the network allocates; a short batch and a padded one take both ways through it.
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        self.encoder.embed(&["warm", "up with another length"], |_| Ok::<_, HandlerError>(()))?;
        Ok(())
    }

    fn run(&mut self, input: Input, job: &Job<NoChunks>) -> Result<Output, HandlerError> {
        if let Some(model) = &input.model {
            self.check_model(model)?;
        }
        let texts = input.input.texts()?;
        let embeddings = self.encoder.embed(&texts, |done| {
            job.check()?;
            job.progress(Progress { done, total: texts.len() });
            Ok::<_, HandlerError>(())
        })?;
        job.record("texts", texts.len() as f64);
        job.record("tokens", embeddings.tokens as f64);
        Ok(Output {
            model: self.name.clone(),
            dimensions: self.encoder.dimensions(),
            embeddings: embeddings.vectors,
            tokens: embeddings.tokens,
        })
    }
}

fn model_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
