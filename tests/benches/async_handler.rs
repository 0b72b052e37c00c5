//! A thousand jobs of 100 ms in flight on an async handler: the rate beside the ideal one, and the memory of worker and handler.
//! Real release programs on one machine, with a queue that is never empty.
//!
//! `cargo bench --package end-to-end-tests --bench async_handler [-- SECONDS [CONCURRENCY]]`, after the programs were built for release.

#![expect(clippy::print_stdout, reason = "the result")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use end_to_end_tests::{Client, Daemon, free_port, worker_env};
use futures_util::future::join_all;
use rustix::process::Pid;
use serde_json::{Value, json};

/// How long each job takes.
const JOB: Duration = Duration::from_millis(100);
/// Not measured: the time until the first jobs have come and gone.
const WARM_UP: Duration = Duration::from_secs(2);
/// Requests to submit jobs that are in flight at the same time.
const SUBMITTERS: usize = 32;

fn program(name: &str) -> Result<PathBuf> {
    // target/release/deps/<bench> → target/release
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).context("no folder")?.join(name);
    if !path.is_file() {
        bail!("{} is missing: run `make bench`, which builds it", path.display());
    }
    Ok(path)
}

/// A figure of `/proc/PID/smaps_rollup` in MiB.
fn memory(pid: Pid, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero())).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Processor time of a process so far, in seconds.
fn cpu(pid: Pid) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    // In hundredths of a second on every Linux in use.
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

async fn completed(client: &Client) -> u64 {
    client.health().await["jobs"]["completed"].as_u64().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let seconds: u64 = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let concurrency: u64 = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let ideal = concurrency as f64 / JOB.as_secs_f64();

    let port = free_port();
    let serve = ["serve", "--bind", &format!("127.0.0.1:{port}")].map(str::to_owned);
    let endpoint = Daemon::start("endpoint", &program("runpod-endpoint")?, &serve, &[]);
    let base = format!("http://127.0.0.1:{port}/v2/test");
    let client = Client::new(&base);
    while reqwest::get(client.url("/health")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // More than can be run in the time.
    let jobs = (ideal * (WARM_UP.as_secs_f64() + seconds as f64 + 1.0)) as usize;
    let input: Value = json!({"do": "sleep_ms", "ms": JOB.as_millis() as u64});
    join_all((0..SUBMITTERS).map(|_| async {
        for _ in 0..jobs / SUBMITTERS {
            client.submit(input.clone()).await;
        }
    }))
    .await;

    let http = format!("127.0.0.1:{}", free_port());
    let handler = program("puppet-handler")?.to_string_lossy().into_owned();
    let run = ["run", "--http-bind", &http, "--", &handler].map(str::to_owned);
    let mut env = worker_env(&base, "worker-1");
    env.push(("PUPPET_ASYNC".to_owned(), "1".to_owned()));
    env.push(("RUNPOD_MAX_CONCURRENCY".to_owned(), concurrency.to_string()));
    env.push(("RUNPOD_WORKER_LOG_LEVEL".to_owned(), "warn".to_owned()));
    let worker = Daemon::start("worker", &program("runpod-worker")?, &run, &env);
    while completed(&client).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(WARM_UP).await;

    let health: Value = reqwest::get(format!("http://{http}/health")).await?.text().await?.parse()?;
    let handler = health["worker"]["processes"][0]["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32));
    let handler = handler.context("the worker shows no handler")?;
    let pids = [("endpoint", endpoint.pid()), ("worker", worker.pid()), ("handler", handler)];
    let cpu_before = pids.map(|(_, pid)| cpu(pid));
    let (begun, before) = (Instant::now(), completed(&client).await);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let done = completed(&client).await - before;
    let rate = done as f64 / begun.elapsed().as_secs_f64();

    println!("{concurrency} jobs of {JOB:?} in flight: {rate:.0} jobs/s, {:.2} of the ideal {ideal:.0}", rate / ideal);
    let mut together = (0.0, 0.0);
    for ((name, pid), before) in pids.into_iter().zip(cpu_before) {
        let (pss, rss) = (memory(pid, "Pss"), memory(pid, "Rss"));
        let share = (cpu(pid) - before) / done.max(1) as f64 * 1000.0;
        println!("{name:>10}: {pss:6.1} MiB PSS, {rss:6.1} MiB RSS, {share:.3} ms CPU a job");
        if name != "endpoint" {
            together = (together.0 + pss, together.1 + rss);
        }
    }
    println!("worker and handler together: {:.1} MiB PSS, {:.1} MiB RSS", together.0, together.1);
    Ok(())
}
