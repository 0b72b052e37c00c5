//! How much the endpoint does, and what it costs: `cargo bench -p runpod-endpoint`.
//!
//! Without arguments everything is measured, which takes some minutes; the names of parts select them:
//! `cargo bench -p runpod-endpoint -- throughput idle`. `memory`, `file` and `PostgreSQL` select stores, and numbers select how many
//! callers `throughput` has: `-- throughput file PostgreSQL 64`. `--quick` measures for less time, and no queue of a million jobs. A
//! database is measured where Debian's package `postgresql-15` is installed: a server that syncs every commit, on this machine.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]
#![expect(clippy::print_stdout, reason = "the result")]

mod depth;
mod http;
mod idle;
mod process;
mod quota;
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
    let (stores, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|name| stores::ENGINES.contains(&&**name));
    let (callers, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|name| name.parse::<usize>().is_ok());
    let callers: Vec<usize> = callers.iter().map(|number| number.parse().unwrap()).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|argument| argument == part);
    let engines: Vec<_> =
        stores::engines().filter(|name| stores.is_empty() || stores.contains(&(*name).into())).collect();
    println!("{}\n", process::hardware());
    if wanted("throughput") {
        runtime().block_on(throughput::measure(&engines, &callers));
    }
    if wanted("depth") {
        depth::measure_apart(&engines, is_quick);
    }
    if wanted("idle") {
        runtime().block_on(idle::measure(&engines));
    }
    if wanted("replicas") {
        runtime().block_on(replicas::measure(is_quick));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}
