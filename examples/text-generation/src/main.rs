//! The handler program. Start it with `runpod-endpoint dev -- text-generation` or `runpod-worker run -- text-generation`.

use std::process::ExitCode;

use text_generation::TextGeneration;

fn main() -> ExitCode {
    runpod_handler_sdk::serve_step::<TextGeneration>()
}
