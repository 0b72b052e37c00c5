//! What it costs to mask secrets in one line of the log, and to learn a new secret:
//! `cargo bench -p runpod-worker --bench redaction`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use runpod_worker::logs::redact;

const ROUNDS: u32 = 10;
const RUNS: u32 = 500;

fn main() {
    let plain =
        "step 1200/5000 loss=0.1234 lr=3.0e-4 tokens=16384 device=cuda:0 the quick brown fox jumps over the lazy dog";
    let long = format!("{} … (20000 more bytes)", plain.repeat(36));
    println!("{:>8}  {:>12}  {:>12}  {:>12}  {:>12}", "secrets", "line", "with secret", "4 KiB, cut", "learn one");
    let mut known = 0;
    for count in [10, 1000, 4096] {
        let begin = Instant::now();
        let new = count - known;
        while known < count {
            redact::add_of_job(&secret(known));
            known += 1;
        }
        let learn = begin.elapsed() / new;
        let secret = format!("{plain} key={}", secret(count / 2));
        println!(
            "{count:>8}  {:>12.2?}  {:>12.2?}  {:>12.2?}  {learn:>12.2?}",
            time(plain),
            time(&secret),
            time(&long)
        );
    }
}

/// A value in which nothing needs another spelling, so that each counts once.
fn secret(number: u32) -> String {
    format!("tok{:016x}{number:08x}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Mean time for one text, in the best of some rounds: other programs only make it longer.
fn time(text: &str) -> Duration {
    let round = |_| {
        let begin = Instant::now();
        for _ in 0..RUNS {
            black_box(redact::clean(black_box(text)));
        }
        begin.elapsed() / RUNS
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}
