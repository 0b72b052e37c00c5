//! The smallest handler: returns its input.

use std::process::ExitCode;

use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks, serve};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

struct Echo;

#[derive(Deserialize, Serialize, JsonSchema)]
struct Message {
    text: String,
}

impl Handler for Echo {
    type Input = Message;
    type Output = Message;
    type Chunk = NoChunks;

    fn load(_env: &LoadEnv) -> Result<Self, HandlerError> {
        Ok(Self)
    }

    fn run(&mut self, input: Message, _job: &Job<NoChunks>) -> Result<Message, HandlerError> {
        Ok(input)
    }
}

fn main() -> ExitCode {
    serve::<Echo>()
}
