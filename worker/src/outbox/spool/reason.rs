//! The note beside a dead letter.

use serde::{Deserialize, Serialize};

use super::record::now_ms;

/// Why a result is a dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterReason {
    /// Status code of the refusal; `None` when there was no answer.
    pub status: Option<u16>,
    /// One sentence.
    pub reason: String,
    /// When it was given up, in milliseconds since 1970.
    pub time_ms: u64,
}

impl DeadLetterReason {
    /// A reason with the current time.
    pub fn new(status: Option<u16>, reason: String) -> Self {
        Self { status, reason, time_ms: now_ms() }
    }
}
