//! Payloads, and how a queue keeps them: as text in memory, or as the address of text in a data file.

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::value::RawValue;

/// JSON text exactly as it was received; never re-encoded on its way through. Boxed, so that the text goes with its last holder: a
/// weak reference keeps what lies directly in an `Arc`.
pub type Payload = Arc<Box<RawValue>>;

/// A payload as the queue holds it.
pub trait Content: Clone + Debug + Send + Sync + 'static {
    /// Length of the JSON text in bytes.
    fn bytes(&self) -> usize;
    /// How many of these bytes stay in memory.
    fn bytes_in_memory(&self) -> usize;
    /// Returns the text for writing it down, once; from then on only its address is kept.
    fn hand_over(&mut self, part: Part, number: u64) -> Option<Payload>;
}

impl Content for Payload {
    fn bytes(&self) -> usize {
        self.get().len()
    }

    fn bytes_in_memory(&self) -> usize {
        self.bytes()
    }

    fn hand_over(&mut self, _: Part, _: u64) -> Option<Payload> {
        None
    }
}

/// Which payload of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What the handler gets.
    Input,
    /// Bucket credentials.
    S3Config,
    /// Result or progress.
    Output,
}

impl Part {
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Self::Input, Self::S3Config, Self::Output];
}

/// A payload that leaves memory once it is on disk.
#[derive(Debug, Clone)]
pub enum Filed {
    /// Not yet on its way to the disk.
    Fresh(Payload),
    /// On disk, or on its way there.
    Stored {
        /// The job's number.
        number: u64,
        /// Which payload of the job.
        part: Part,
        /// Its length.
        bytes: usize,
    },
}

impl Filed {
    /// The text, if it is still here.
    pub(crate) fn fresh(self) -> Option<Payload> {
        match self {
            Self::Fresh(payload) => Some(payload),
            Self::Stored { .. } => None,
        }
    }
}

impl Content for Filed {
    fn bytes(&self) -> usize {
        match self {
            Self::Fresh(payload) => payload.get().len(),
            Self::Stored { bytes, .. } => *bytes,
        }
    }

    /// A fresh one is on its way out.
    fn bytes_in_memory(&self) -> usize {
        0
    }

    fn hand_over(&mut self, part: Part, number: u64) -> Option<Payload> {
        let bytes = self.bytes();
        match std::mem::replace(self, Self::Stored { number, part, bytes }) {
            Self::Fresh(payload) => Some(payload),
            stored @ Self::Stored { .. } => {
                *self = stored;
                None
            }
        }
    }
}
