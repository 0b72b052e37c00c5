//! The smallest handler: returns its input.

use runpod_handler_sdk::{HandlerError, serve_fn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize, JsonSchema)]
struct Message {
    text: String,
}

fn main() -> std::process::ExitCode {
    serve_fn(|input: Message, _job| Ok::<_, HandlerError>(input))
}
