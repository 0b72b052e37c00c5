//! Measures the gain of batching: embeddings per second on the CPU, one text at a time and in full batches.
//!
//! Run it with `make bench`. The rates depend on the machine: compare the ratios.
#![expect(clippy::print_stdout, reason = "a benchmark prints its measurements")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tch::Device;
use text_embeddings::{Encoder, ModelError, Precision};

/// Number of texts in a full batch of the encoder.
const BATCH: usize = 32;
/// Number of measurements of each kind, in turn. The median is shown.
const ROUNDS: usize = 7;

const SHORT: &str = "A man is eating food.";
const PARAGRAPH: &str = "A serverless worker takes a job from the queue, runs it on the accelerator and posts the \
    result. While the job is running, the worker tells the platform that it is alive. If the process dies, the job is \
    given to another worker, and the caller never learns that anything went wrong.";

fn main() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2");
    let encoder = Encoder::load(&folder, Device::Cpu, Precision::F32, |variables, path| {
        variables.load(path).map_err(ModelError::from)
    })?;

    println!("{}", hardware());
    println!("{:<10} {:>6}  {:>10}  {:>12}  {:>6}", "text", "tokens", "one by one", "batches of 32", "ratio");
    for (name, text) in [("short", SHORT), ("paragraph", PARAGRAPH)] {
        let texts = vec![text; BATCH];
        let tokens = embed(&encoder, &texts[..1])?;
        embed(&encoder, &texts)?;
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(timed(|| texts.chunks(1).try_for_each(|text| embed(&encoder, text).map(drop)))?);
            together.push(timed(|| embed(&encoder, &texts).map(drop))?);
        }
        let (alone, together) = (per_second(alone)?, per_second(together)?);
        println!("{name:<10} {tokens:>6}  {alone:>8.0}/s  {together:>11.0}/s  {:>5.1}x", together / alone);
    }
    Ok(())
}

fn embed(encoder: &Encoder, texts: &[&str]) -> anyhow::Result<usize> {
    let embeddings = encoder.embed(texts, |_| Ok::<_, ModelError>(()))?;
    ensure!(embeddings.len() == texts.len(), "a text was lost");
    Ok(embeddings.iter().map(|embedding| embedding.tokens).sum())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Embeddings per second at the median time for one batch of texts.
fn per_second(mut times: Vec<Duration>) -> anyhow::Result<f64> {
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("no rounds")?;
    Ok(BATCH as f64 / median.as_secs_f64())
}

fn hardware() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or("unknown CPU", |(_, name)| name);
    format!("{name}, {cores} cores, {} libtorch threads", tch::get_num_threads())
}
