//! How much the endpoint does, and what it costs: `cargo bench -p runpod-endpoint`.
//!
//! Without arguments everything is measured, which takes some minutes; the names of parts select them:
//! `cargo bench -p runpod-endpoint -- throughput idle`. `--quick` measures for less time, and no queue of a million jobs. A database is
//! measured where Debian's package `postgresql-15` is installed: a server that syncs every commit, on this machine.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]
#![expect(clippy::print_stdout, reason = "the result")]

mod depth;
mod http;
mod idle;
mod process;
mod replicas;
mod stores;
mod throughput;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [depth::CHILD, engine, depths] => return runtime().block_on(depth::measure(engine, depths)),
        [replicas::CHILD, url] => return runtime().block_on(replicas::serve(url)),
        _ => {}
    }
    let (flags, parts): (Vec<_>, Vec<_>) = arguments.into_iter().partition(|argument| argument == "--quick");
    let is_quick = !flags.is_empty();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|argument| argument == part);
    println!("{}\n", process::hardware());
    if wanted("throughput") {
        runtime().block_on(throughput::measure());
    }
    if wanted("depth") {
        depth::measure_apart(is_quick);
    }
    if wanted("idle") {
        runtime().block_on(idle::measure());
    }
    if wanted("replicas") {
        runtime().block_on(replicas::measure(is_quick));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}
