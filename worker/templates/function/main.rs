//! The handler program; `runpod-worker` starts it.

use std::process::ExitCode;

use runpod_handler_sdk::{HandlerError, serve_fn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A job's `input`. What its schema forbids is refused with the JSON path of every problem.
#[derive(Deserialize, JsonSchema)]
struct Input {
    /// Who is greeted.
    #[schemars(length(min = 1))]
    names: Vec<String>,
}

/// A job's `output`.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Output {
    greetings: Vec<String>,
}

/// What a job does. Its errors and panics fail this job only.
fn greet(input: Input) -> Result<Output, HandlerError> {
    let greetings = input.names.iter().map(|name| format!("Hello, {name}!"));
    Ok(Output {
        greetings: greetings.collect(),
    })
}

fn main() -> ExitCode {
    serve_fn(|input, _job| greet(input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_greeted() {
        let names = vec!["Ada".to_owned(), "Grace".to_owned()];
        let output = greet(Input { names }).unwrap();
        assert_eq!(output.greetings, ["Hello, Ada!", "Hello, Grace!"]);
    }
}
