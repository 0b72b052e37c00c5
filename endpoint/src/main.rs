//! The `runpod-endpoint` program.

fn main() -> std::process::ExitCode {
    runpod_endpoint::cli::main(std::env::args_os())
}
