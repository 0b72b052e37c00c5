//! `text-embeddings` as a service: 32 callers with a short text each, through a local endpoint, answered by our worker with 1, 2 and 4
//! processes and by the official Python worker with the same weights and threads. Real release programs on one machine.
//!
//! `cargo bench --package end-to-end-tests --bench embeddings [-- SECONDS]`, after the programs were built for release and `make
//! pytorch-worker` has installed the official worker with PyTorch.

#![expect(clippy::print_stdout, reason = "the result")]

mod services;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use end_to_end_tests::{Client, Daemon, free_port};
use futures_util::future::join_all;
use serde_json::json;

use services::Service;

const CALLERS: usize = 32;
/// Number of measurements of each service, in turn. The median is used.
const ROUNDS: usize = 5;
const TEXT: &str = "A man is eating food.";

/// A program that was built beside this one.
fn program(name: &str) -> Result<PathBuf> {
    // target/release/deps/<bench> → target/release
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).context("no folder")?.join(name);
    if !path.is_file() {
        bail!("{} is missing: run `make bench`, which builds it", path.display());
    }
    Ok(path)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let time = Duration::from_secs(arguments.next().map_or(Ok(4), |text| text.parse())?);
    let threads = std::thread::available_parallelism()?.get();

    let port = free_port();
    let serve = ["serve", "--bind", &format!("127.0.0.1:{port}")].map(str::to_owned);
    let _endpoint = Daemon::start("endpoint", &program("runpod-endpoint")?, &serve, &[]);
    let services = [
        Service::Ours { processes: 1 },
        Service::Ours { processes: 2 },
        Service::Ours { processes: 4 },
        // With as many jobs at a time as there are callers: it takes jobs once a second, and without `concurrency_modifier` one of them.
        Service::Official { concurrency: CALLERS },
    ];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); services.len()];
    for round in 0..ROUNDS {
        for (service, rates) in services.iter().zip(&mut rates) {
            let base = format!("http://127.0.0.1:{port}/v2/{}", service.endpoint());
            let client = Client::new(&base);
            while reqwest::get(client.url("/health")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // One service at a time, so that none of them shares the processor with another one that waits.
            let _worker = service.start(&base, threads)?;
            let first = client.runsync(json!({ "input": TEXT })).await;
            ensure!(first["status"] == "COMPLETED", "{service}, round {round}: {first}");
            let warm_up = time / 4;
            rate(&client, warm_up).await?;
            rates.push(rate(&client, time).await?);
        }
    }
    println!(
        "{CALLERS} callers with a short text each, {threads} threads in all, medians of {ROUNDS} rounds of {time:?}:"
    );
    let mut medians = Vec::new();
    for (service, rates) in services.iter().zip(&mut rates) {
        rates.sort_unstable_by(f64::total_cmp);
        let (least, median, most) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
        println!("{:<42} {median:>7.0} texts/s   ({least:.0} to {most:.0})", service.to_string());
        medians.push(median);
    }
    let [one, two, four, official] = medians[..] else { bail!("a service is missing") };
    println!("2 and 4 processes to 1: {:.2}x, {:.2}x (target 1x for 2)", two / one, four / one);
    println!("ours to the official one: {:.2}x (target 2x)", one / official);
    ensure!(one / official >= 2.0, "below the target");
    Ok(())
}

/// Texts per second that 32 callers get who each wait for an answer before they send the next text.
async fn rate(client: &Client, time: Duration) -> Result<f64> {
    let start = Instant::now();
    let caller = || async {
        let mut answered = 0;
        while start.elapsed() < time {
            let answer = client.runsync(json!({ "input": TEXT })).await;
            ensure!(answer["status"] == "COMPLETED", "{answer}");
            answered += 1;
        }
        Ok(answered)
    };
    let answered = join_all((0..CALLERS).map(|_| caller())).await.into_iter().sum::<Result<u32>>()?;
    Ok(f64::from(answered) / start.elapsed().as_secs_f64())
}
