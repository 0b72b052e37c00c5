//! Measures the gain of continuous batching: tokens per second of 16 streaming callers, served one at a time and together.
//!
//! Run it with `make bench`; it fails if the gain is below the target. The rates depend on the machine: compare the ratio.
#![expect(clippy::print_stdout, reason = "a benchmark prints its measurements")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use runpod_handler_sdk::testing::Harness;
use serde_json::{Value, json};
use text_generation::TextGeneration;

const CALLERS: usize = 16;
/// Tokens that each caller asks for.
const TOKENS: u32 = 32;
/// Number of measurements of each kind, in turn. The median is used.
const ROUNDS: usize = 3;
/// Least gain.
const TARGET: f64 = 4.0;

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))?;
    let mut handler = Harness::load_step::<TextGeneration>()?;
    let callers: Vec<Value> = (0..CALLERS).map(request).collect();
    run(&mut handler, &callers[..1])?;
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(timed(|| callers.chunks(1).try_for_each(|caller| run(&mut handler, caller)))?);
        together.push(timed(|| run(&mut handler, &callers))?);
    }
    let (alone, together) = (per_second(alone)?, per_second(together)?);
    let ratio = together / alone;
    println!("{CALLERS} streaming callers: {alone:.0} tokens/s one at a time, {together:.0} together: {ratio:.1}x");
    ensure!(ratio >= TARGET, "the ratio is below the target of {TARGET}x");
    Ok(())
}

/// Prompts of different lengths. Random choices, so that no text ends early in the same way.
fn request(caller: usize) -> Value {
    let prompt = "Once upon a time there was a number. ".repeat(1 + caller % 4);
    json!({ "prompt": prompt, "max_tokens": TOKENS, "temperature": 1, "seed": caller, "stream": true })
}

fn run(handler: &mut Harness, callers: &[Value]) -> anyhow::Result<()> {
    for finished in handler.run_all(callers)? {
        let finished = finished?;
        ensure!(!finished.chunks.is_empty(), "nothing was streamed");
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Tokens per second at the median time. Both kinds write the same texts.
fn per_second(mut times: Vec<Duration>) -> anyhow::Result<f64> {
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("no rounds")?;
    Ok(CALLERS as f64 * f64::from(TOKENS) / median.as_secs_f64())
}
