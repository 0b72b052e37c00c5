//! How much the endpoint does, and what it costs: `cargo bench -p runpod-endpoint`.
//!
//! Without arguments everything is measured, which takes some minutes; the names of parts select them:
//! `cargo bench -p runpod-endpoint -- throughput idle`.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]
#![expect(clippy::print_stdout, reason = "the result")]

mod depth;
mod http;
mod idle;
mod process;
mod stores;
mod throughput;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [part, engine] = arguments.as_slice()
        && part == depth::CHILD
    {
        return runtime().block_on(depth::measure(engine));
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    println!("{}\n", process::hardware());
    if wanted("throughput") {
        runtime().block_on(throughput::measure());
    }
    if wanted("depth") {
        depth::measure_apart();
    }
    if wanted("idle") {
        runtime().block_on(idle::measure());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}
