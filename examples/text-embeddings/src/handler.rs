//! The implementation of `Handler`.

use std::path::{Path, PathBuf};

use runpod_handler_sdk::torch::load_safetensors;
use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoder::Encoder;
use crate::input::Texts;

/// Environment variable with the directory of the model.
const MODEL_DIR_VARIABLE: &str = "TEXT_EMBEDDINGS_MODEL_DIR";
/// Default directory of the model, where `make model` puts it.
const DEFAULT_MODEL_DIR: &str = ".models/all-MiniLM-L6-v2";

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
    /// A model's name is that of its dir; Hugging Face prefixes it with the name of an organisation.
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
        let dir = std::env::var_os(MODEL_DIR_VARIABLE).map_or_else(|| DEFAULT_MODEL_DIR.into(), PathBuf::from);
        let encoder = Encoder::load(&dir, env.device()?, |variables, path| {
            load_safetensors(variables, path, env).map_err(HandlerError::from)
        })?;
        Ok(Self { name: model_name(&dir), encoder })
    }

    /// The first pass through the network allocates memory. The two texts form a padded batch, which also uses the mask.
    fn warm_up(&mut self) -> Result<(), HandlerError> {
        self.encoder.embed(&["warm", "up with another length"], |_| Ok::<_, HandlerError>(()))?;
        Ok(())
    }

    fn run(&mut self, input: Input, job: &Job<NoChunks>) -> Result<Output, HandlerError> {
        if let Some(model) = &input.model {
            self.check_model(model)?;
        }
        let texts = input.input.texts();
        let embeddings = self.encoder.embed(&texts, |done| {
            job.stop_point()?;
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

fn model_name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
