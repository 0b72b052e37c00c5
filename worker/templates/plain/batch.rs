//! What the worker calls. Put your model here.

use runpod_handler_sdk::{BatchHandler, BatchItem, BatchLimits, HandlerError, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One model.
pub struct MyHandler {
    greeting: String,
}

/// A job's `input`. What its schema forbids is refused with the JSON path of every problem.
#[derive(Deserialize, JsonSchema)]
pub struct Input {
    /// Who is greeted.
    #[schemars(length(min = 1))]
    names: Vec<String>,
}

/// A job's `output`.
#[derive(Serialize, JsonSchema)]
pub struct Output {
    greetings: Vec<String>,
}

impl BatchHandler for MyHandler {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const IDEMPOTENT: bool = true;

    /// The most that one batch may hold. The worker takes that many jobs without a flag.
    fn limits() -> BatchLimits {
        BatchLimits::items(32).cost(1024)
    }

    /// What a job counts against the cost of a batch.
    fn cost(input: &Input) -> u64 {
        input.names.len() as u64
    }

    /// Called once, before the first job.
    fn load(_env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self {
            greeting: "Hello".to_owned(),
        })
    }

    /// Called with the jobs that wait. One result for each, in the same order; a job's own error fails that job only.
    fn run_batch(
        &mut self,
        items: &[BatchItem<Input, NoChunks>],
    ) -> Result<Vec<Result<Output, HandlerError>>, HandlerError> {
        let greet = |item: &BatchItem<Input, NoChunks>| {
            item.job.stop_point()?; // the job ends here if it was cancelled or its deadline has passed
            let names = item.input.names.iter();
            let greetings = names.map(|name| format!("{}, {name}!", self.greeting));
            Ok(Output {
                greetings: greetings.collect(),
            })
        };
        Ok(items.iter().map(greet).collect())
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_sdk::ErrorKind;
    use runpod_handler_sdk::testing::Harness;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bad_item_fails_alone() {
        let mut handler = Harness::load_batch::<MyHandler>().unwrap();
        let inputs = [json!({ "names": ["Ada"] }), json!({ "names": [] })];
        let results = handler.run_all(&inputs).unwrap();
        assert_eq!(
            results[0].as_ref().unwrap().output,
            json!({ "greetings": ["Hello, Ada!"] })
        );
        assert_eq!(
            results[1].as_ref().unwrap_err().kind(),
            Some(ErrorKind::Validation)
        );
    }
}
