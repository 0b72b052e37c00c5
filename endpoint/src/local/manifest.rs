//! What a handler declares about itself.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The answer of `runpod-worker schema`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The handler's name.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Whether it streams items.
    #[serde(default)]
    pub streams: bool,
    /// JSON Schema of a job's input.
    pub input_schema: Box<RawValue>,
}
