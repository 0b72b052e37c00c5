//! Compares ways to serve 32 callers with a short text each: in batches, one at a time, and as one job with all texts.
//!
//! Run it with `make bench`; it fails if a ratio is below its target. The handlers run on threads of this process, behind the SDK's
//! harness, so all ways pay the same for messages.
#![expect(clippy::print_stdout, reason = "a benchmark prints its measurements")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use runpod_handler_sdk::testing::Harness;
use runpod_handler_sdk::{Handler, HandlerError, Job, LoadEnv, NoChunks};
use serde_json::{Value, json};
use text_embeddings::{Encoder, Input, ModelError, Precision, TextEmbeddings};

const CALLERS: usize = 32;
/// Number of measurements of each kind, in turn. The median is used.
const ROUNDS: usize = 9;
const MODEL: &str = ".models/all-MiniLM-L6-v2";
const TEXT: &str = "A man is eating food.";

/// The same model, one job at a time.
struct Unbatched(Encoder);

impl Handler for Unbatched {
    type Input = Input;
    type Output = Vec<Vec<f32>>;
    type Chunk = NoChunks;

    fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        let fill = |variables: &mut tch::nn::VarStore, path: &Path| variables.load(path).map_err(ModelError::from);
        Ok(Self(Encoder::load(Path::new(MODEL), env.device()?, Precision::F32, fill)?))
    }

    fn run(&mut self, input: Input, _: &Job<NoChunks>) -> Result<Self::Output, HandlerError> {
        let embeddings = self.0.embed(&input.input.texts(), |_| Ok::<_, ModelError>(()))?;
        Ok(embeddings.into_iter().map(|embedding| embedding.vector).collect())
    }
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))?;
    let mut batched = Harness::load_batch::<TextEmbeddings>()?;
    let mut unbatched = Harness::load::<Unbatched>()?;
    let callers = vec![json!({ "input": TEXT }); CALLERS];
    let one_job = json!({ "input": vec![TEXT; CALLERS] });
    run(&mut batched, &callers)?;
    run(&mut unbatched, &callers)?;

    let mut times: [Vec<Duration>; 5] = std::array::from_fn(|_| Vec::new());
    for _ in 0..ROUNDS {
        times[0].push(timed(|| run(&mut batched, &callers))?);
        times[1].push(timed(|| run(&mut unbatched, &callers))?);
        times[2].push(timed(|| run(&mut batched, std::slice::from_ref(&one_job)))?);
        // One caller waits for each answer before it sends the next text.
        times[3].push(timed(|| callers.chunks(1).try_for_each(|caller| run(&mut batched, caller)))?);
        times[4].push(timed(|| callers.chunks(1).try_for_each(|caller| run(&mut unbatched, caller)))?);
    }
    let rates = times.map(median);
    let [together, alone, in_one_job, one_caller, one_caller_unbatched] = rates;
    for (name, rate) in [
        ("32 callers, batched", together),
        ("32 callers, unbatched", alone),
        ("32 texts in one job", in_one_job),
        ("1 caller, batched", one_caller),
        ("1 caller, unbatched", one_caller_unbatched),
    ] {
        println!("{name:<22} {rate:>8.0} texts/s");
    }
    at_least(4.0, together / alone, "32 callers: batched to unbatched")?;
    at_least(0.8, together / in_one_job, "32 callers, batched, to 32 texts in one job")?;
    at_least(0.95, one_caller / one_caller_unbatched, "1 caller: batched to unbatched")
}

fn run(handler: &mut Harness, inputs: &[Value]) -> anyhow::Result<()> {
    for finished in handler.run_all(inputs)? {
        finished?;
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// Texts per second at the median time.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    CALLERS as f64 / times[times.len() / 2].as_secs_f64()
}

fn at_least(target: f64, ratio: f64, what: &str) -> anyhow::Result<()> {
    println!("{what}: {ratio:.2}x (target {target}x)");
    ensure!(ratio >= target, "{what}: below the target");
    Ok(())
}
