//! What the worker calls. Put your model here.

use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One slot's model.
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

impl Handler for MyHandler {
    type Input = Input;
    type Output = Output;
    type Chunk = NoChunks;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Called once, before the first job.
    fn load(_env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self {
            greeting: "Hello".to_owned(),
        })
    }

    /// Called for every job. Errors and panics fail this job only.
    fn run(&mut self, input: Input, job: &Job<NoChunks>) -> Result<Output, HandlerError> {
        let total = input.names.len();
        let mut greetings = Vec::with_capacity(total);
        for name in input.names {
            job.stop_point()?; // the job ends here if it was cancelled or its deadline has passed
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
    fn everybody_is_greeted() {
        let mut handler = Harness::load::<MyHandler>().unwrap();
        let done = handler.run(&json!({ "names": ["Ada", "Grace"] })).unwrap();
        assert_eq!(
            done.output,
            json!({ "greetings": ["Hello, Ada!", "Hello, Grace!"] })
        );
    }

    #[test]
    fn bad_input_is_refused() {
        let mut handler = Harness::load::<MyHandler>().unwrap();
        for input in [json!({ "names": [] }), json!({ "names": "Ada" }), json!({})] {
            assert_eq!(
                handler.run(&input).unwrap_err().kind(),
                Some(ErrorKind::Validation),
                "{input}"
            );
        }
    }
}
