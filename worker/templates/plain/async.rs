//! What the worker calls. Put your calls of other services here.

use std::time::Duration;

use runpod_handler_sdk::{AsyncHandler, AsyncJob, HandlerError, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What all jobs share, such as a client with its connections.
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

impl AsyncHandler for MyHandler {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// How many jobs run at the same time at the start. The worker takes that many jobs without a flag.
    fn max_concurrency() -> u32 {
        100
    }

    /// Called once, before the first job.
    async fn load(_env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self {
            greeting: "Hello".to_owned(),
        })
    }

    /// Called for every job. Errors and panics fail this job only.
    async fn run(&self, input: Input, job: AsyncJob<NoChunks>) -> Result<Output, HandlerError> {
        let total = input.names.len();
        let mut greetings = Vec::with_capacity(total);
        for name in input.names {
            // In place of a request to a service. A job that is cancelled or late ends here.
            tokio::time::sleep(Duration::from_millis(10)).await;
            greetings.push(format!("{}, {name}!", self.greeting));
            job.progress(format!("{} of {total}", greetings.len()));
        }
        Ok(Output { greetings })
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_sdk::ErrorKind;
    use runpod_handler_sdk::testing::Harness;
    use serde_json::json;

    use super::*;

    #[test]
    fn jobs_run_together_and_everybody_is_greeted() {
        let mut handler = Harness::load_async::<MyHandler>().unwrap();
        let inputs = [json!({ "names": ["Ada", "Grace"] }), json!({ "names": [] })];
        let results = handler.run_all(&inputs).unwrap();
        assert_eq!(
            results[0].as_ref().unwrap().output,
            json!({ "greetings": ["Hello, Ada!", "Hello, Grace!"] })
        );
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::Validation));
    }
}
