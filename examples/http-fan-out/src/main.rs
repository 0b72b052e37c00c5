//! Fetches many URLs at once.

use std::process::ExitCode;

fn main() -> ExitCode {
    runpod_handler_sdk::serve_async::<http_fan_out::FanOut>()
}
