//! What counts as speech.

use schemars::JsonSchema;
use serde::Deserialize;

/// How far below the threshold a probability must fall to end speech.
const HYSTERESIS: f64 = 0.15;
/// Lowest probability that ends speech.
const LOWEST_END: f64 = 0.01;

/// What counts as speech. Names, meanings and defaults are those of `get_speech_timestamps` of the Python package.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Speech begins where its probability is at least this. It ends where the probability is lower by more than 0.15.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: f64,
    /// Speech must be longer than this, in milliseconds.
    #[schemars(range(min = 0, max = 60_000))]
    pub min_speech_duration_ms: u32,
    /// Silence ends speech when it lasts this long, in milliseconds.
    #[schemars(range(min = 0, max = 60_000))]
    pub min_silence_duration_ms: u32,
    /// Each segment is extended by this at both ends, in milliseconds. Segments that would overlap meet in the middle.
    #[schemars(range(min = 0, max = 60_000))]
    pub speech_pad_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { threshold: 0.5, min_speech_duration_ms: 250, min_silence_duration_ms: 100, speech_pad_ms: 30 }
    }
}

impl Settings {
    /// The probability below which speech ends.
    pub(crate) fn end_threshold(&self) -> f64 {
        (self.threshold - HYSTERESIS).max(LOWEST_END)
    }
}
