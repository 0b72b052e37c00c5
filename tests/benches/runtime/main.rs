//! What the runtime costs: the real release programs beside a loop that does nothing else, and beside the official worker, all on
//! the same queue and in the same run.
//!
//! `cargo bench --package end-to-end-tests --bench runtime [-- [--quick] [GROUP…]]`, after the programs were built for release;
//! `make bench` does both. The groups are `throughput`, `logs`, `latency`, `large`, `stream`, `streams`, `start`, `idle` and `stuck`. The
//! figures are printed, and written to `target/bench/runtime.json`. The official worker takes part where `make python-client` has installed it.

#![expect(clippy::print_stdout, reason = "the result")]

mod bare_loop;
mod groups;
mod line;
mod measure;
mod paced;
mod plan;
mod proc;
mod queue;
mod report;
mod samples;
mod subject;

use anyhow::{Result, bail};

use crate::plan::Plan;
use crate::queue::Queue;
use crate::report::Report;
use crate::subject::{Kind, has_official};

const GROUPS: [&str; 9] = ["throughput", "logs", "latency", "large", "stream", "streams", "start", "idle", "stuck"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, base, batch] = arguments.as_slice()
        && flag == bare_loop::FLAG
    {
        return bare_loop::run(base, batch.parse()?);
    }
    let (flags, groups): (Vec<String>, Vec<String>) = arguments.into_iter().partition(|text| text.starts_with('-'));
    let plan = match flags.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Plan::FULL,
        ["--quick"] => Plan::QUICK,
        other => bail!("{other:?}: the only flag is --quick"),
    };
    if let Some(unknown) = groups.iter().find(|group| !GROUPS.contains(&group.as_str())) {
        bail!("there is no group {unknown}: choose from {}", GROUPS.join(", "));
    }
    measure_all(&plan, &groups, if flags.is_empty() { "full" } else { "quick" })
}

#[tokio::main(flavor = "current_thread")]
async fn measure_all(plan: &Plan, groups: &[String], mode: &str) -> Result<()> {
    let kinds =
        [1, 50, 200, 1000].into_iter().flat_map(|jobs| [Kind::Worker(jobs), Kind::Bare(jobs), Kind::Official(jobs)]);
    let kinds = kinds.chain([Kind::Quiet(50), Kind::Worker(paced::STREAMS)]);
    let queue = Queue::start(&kinds.map(Kind::name).collect::<Vec<_>>())?;
    if !has_official() {
        println!("The official worker is not installed and is left out: `make python-client` installs it.");
    }
    let mut report = Report::default();
    Report::print_head();
    for group in GROUPS.iter().filter(|group| groups.is_empty() || groups.iter().any(|name| name == *group)) {
        match *group {
            "throughput" => groups::throughput(&queue, plan, &mut report).await?,
            "logs" => paced::logs(&queue, plan, &mut report).await?,
            "latency" => groups::latency(&queue, plan, &mut report).await?,
            "large" => groups::large(&queue, plan, &mut report).await?,
            "stream" => groups::stream(&queue, plan, &mut report).await?,
            "streams" => paced::streams(&queue, plan, &mut report).await?,
            "start" => groups::start_up(&queue, plan, &mut report).await?,
            "idle" => groups::idle(&queue, plan, &mut report).await?,
            _ => groups::stuck(&queue, plan, &mut report).await?,
        }
    }
    report.print_foot();
    println!("{}", report.write(mode)?.display());
    Ok(())
}
