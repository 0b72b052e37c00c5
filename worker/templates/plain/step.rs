//! What the worker calls. Put your model here.

use runpod_handler_sdk::{HandlerError, Job, LoadEnv, Running, StepHandler, StepLimits};
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

/// What the model keeps of one running job. A decoder keeps its tokens and its KV cache.
pub struct Sequence {
    names: std::vec::IntoIter<String>,
    greetings: Vec<String>,
}

impl StepHandler for MyHandler {
    type Input = Input;
    type Output = Output;
    /// What is streamed.
    type Chunk = String;
    type Sequence = Sequence;

    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// The most that runs at the same time. The worker takes that many jobs without a flag.
    fn limits() -> StepLimits {
        StepLimits::running(32).cost(1024)
    }

    /// What a job counts against the cost limit. A decoder counts the tokens that its cache will hold.
    fn cost(input: &Input) -> u64 {
        input.names.len() as u64
    }

    /// Called once, before the first job.
    fn load(_env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self {
            greeting: "Hello".to_owned(),
        })
    }

    /// Called when a job joins. What can fail for one job alone belongs here.
    fn admit(&mut self, input: Input, _job: &Job<String>) -> Result<Sequence, HandlerError> {
        Ok(Sequence {
            names: input.names.into_iter(),
            greetings: Vec::new(),
        })
    }

    /// Advances all running jobs by one step. Jobs join and leave between two steps.
    fn step(&mut self, running: &mut [Running<Self>]) -> Result<(), HandlerError> {
        for one in running {
            let Some(name) = one.sequence.names.next() else {
                let greetings = std::mem::take(&mut one.sequence.greetings);
                one.finish(Output { greetings });
                continue;
            };
            let greeting = format!("{}, {name}!", self.greeting);
            one.sequence.greetings.push(greeting.clone());
            if let Err(error) = one.job.emit(greeting) {
                one.fail(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use runpod_handler_sdk::ErrorKind;
    use runpod_handler_sdk::testing::Harness;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_step_streams_a_greeting_of_each_job() {
        let mut handler = Harness::load_step::<MyHandler>().unwrap();
        let inputs = [json!({ "names": ["Ada", "Grace"] }), json!({ "names": [] })];
        let results = handler.run_all(&inputs).unwrap();
        let done = results[0].as_ref().unwrap();
        let greetings = json!(["Hello, Ada!", "Hello, Grace!"]);
        assert_eq!(json!(done.chunks), greetings);
        assert_eq!(done.output, json!({ "greetings": greetings }));
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::Validation));
    }
}
