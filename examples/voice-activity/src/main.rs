//! The handler program. Start it with `runpod-endpoint dev -- voice-activity` or `runpod-worker run -- voice-activity`.

use std::process::ExitCode;

use voice_activity::VoiceActivity;

fn main() -> ExitCode {
    runpod_handler_sdk::serve::<VoiceActivity>()
}
