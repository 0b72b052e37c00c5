//! The input of a job.

use schemars::JsonSchema;
use serde::Deserialize;

/// What to fetch, and within which limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// URLs with `http` or `https`.
    #[schemars(length(min = 1, max = 1000))]
    pub urls: Vec<String>,
    /// How many of them are fetched at the same time.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 1, max = 100))]
    pub concurrency: usize,
    /// Time limit for each of them, redirects and body included.
    #[serde(default = "ten_seconds")]
    #[schemars(range(min = 1, max = 600_000))]
    pub timeout_ms: u64,
    /// Longest body in bytes; a longer one is an error of its URL.
    #[serde(default = "one_mebibyte")]
    #[schemars(range(min = 0, max = 67_108_864))]
    pub max_bytes: usize,
    /// Return bodies that are JSON.
    #[serde(default)]
    pub json: bool,
}

fn sixteen() -> usize {
    16
}

fn ten_seconds() -> u64 {
    10_000
}

fn one_mebibyte() -> usize {
    1 << 20
}
