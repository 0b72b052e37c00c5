//! The test handler as one that runs jobs in batches: each item does what its input asks, one after another.

use runpod_handler_sdk::{BatchHandler, BatchItem, BatchLimits, Check, Handler, HandlerError, LoadEnv};
use serde_json::Value;

use crate::{Do, Puppet, start};

/// Most jobs in a batch.
const MAX_ITEMS: u32 = 16;

pub(crate) struct Batch(Puppet);

impl BatchHandler for Batch {
    type Input = Do;
    type Output = Value;
    type Chunk = Value;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn limits() -> BatchLimits {
        BatchLimits::items(MAX_ITEMS).cost(1024)
    }

    fn checks(_: &LoadEnv) -> Vec<Check> {
        vec![start::check()]
    }

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        Puppet::load(env).map(Self)
    }

    /// Only a validation error is that of its item; any other fails the whole batch.
    fn run_batch(&mut self, items: &[BatchItem<Do, Value>]) -> Result<Vec<Result<Value, HandlerError>>, HandlerError> {
        let run = |item: &BatchItem<Do, Value>| match item.input {
            Do::Validation => Ok(self.0.run(item.input.clone(), &item.job)),
            _ => self.0.run(item.input.clone(), &item.job).map(Ok),
        };
        items.iter().map(run).collect()
    }
}
