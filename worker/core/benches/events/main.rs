//! What one event costs the core, by the number of jobs that the worker holds: `cargo bench -p runpod-worker-core`.
//!
//! One job after the other is taken, started, done and delivered, beside all the others, which run on. A snapshot is made for each
//! event, as the worker does.
#![expect(clippy::disallowed_types, reason = "a bench measures with the clock that the core does not have")]
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::expect_used, reason = "a worker that does not behave as expected has no figure")]

mod busy;

use std::time::{Duration, Instant};

use busy::{Busy, EVENTS};

const HELD: [u32; 3] = [10, 1_000, 100_000];
const ROUNDS: usize = 7;
const JOBS: u32 = 4_000;

fn main() {
    let mut workers = HELD.map(Busy::new);
    let mut times = HELD.map(|_| Vec::new());
    // Alternating, so that a slow moment of the machine does not hit one size only.
    for _ in 0..ROUNDS {
        for (worker, times) in workers.iter_mut().zip(&mut times) {
            times.push(timed(|| worker.run(JOBS)) / (EVENTS * JOBS));
        }
    }
    println!("{:>10}  {:>14}  {:>12}", "jobs held", "one event", "ratio");
    let medians = times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    });
    for (held, median) in HELD.iter().zip(medians) {
        println!("{held:>10}  {median:>14.2?}  {:>12.2}", median.as_secs_f64() / medians[0].as_secs_f64());
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}
