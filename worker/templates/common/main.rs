//! The handler program; `runpod-worker` starts it.

mod handler;

use std::process::ExitCode;

fn main() -> ExitCode {
    runpod_handler_sdk::{{serve}}::<handler::MyHandler>()
}
