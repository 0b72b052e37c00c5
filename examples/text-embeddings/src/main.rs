//! The handler program. Start it with `runpod-endpoint dev -- text-embeddings` or `runpod-worker run -- text-embeddings`.

use std::process::ExitCode;

use text_embeddings::TextEmbeddings;

fn main() -> ExitCode {
    runpod_handler_sdk::serve_batch::<TextEmbeddings>()
}
