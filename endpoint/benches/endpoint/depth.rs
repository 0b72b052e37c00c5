//! What a long queue costs: memory for each job, and time to take the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runpod_endpoint::store::{Outcome, Store};
use tokio_util::sync::CancellationToken;

use crate::http::{self, Connection, id};
use crate::process::resident_bytes;
use crate::stores::{ENDPOINT, open};

/// The argument with which this program calls itself.
pub(crate) const CHILD: &str = "depth-of";

/// The argument that leaves out the longest queue.
const QUICK: &str = "quick";

const DEPTHS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Takes that are timed at each depth. Few, so that the depth stays what it is.
const TAKES: usize = 200;

/// How far the median take at any depth may be from the one in the shortest queue to count as flat.
const FLAT: f64 = 0.2;

/// Each engine in a process of its own, so that memory freed by the first is not used by the second.
pub(crate) fn measure_apart(engines: &[&str], is_quick: bool) {
    println!("## Depth of the queue, 1 kB inputs\n");
    let depths = if is_quick { QUICK } else { "" };
    for &engine in engines {
        #[expect(clippy::disallowed_methods, reason = "the program runs itself")]
        let status =
            std::process::Command::new(std::env::current_exe().unwrap()).args([CHILD, engine, depths]).status();
        assert!(status.unwrap().success());
    }
}

pub(crate) async fn measure(engine: &str, depths: &str) {
    let depths = if depths == QUICK { &DEPTHS[..3] } else { &DEPTHS };
    let opened = open(engine).await;
    let store = &opened.store;
    let stop = CancellationToken::new();
    let address = http::serve(store.clone(), Duration::from_secs(25), stop.clone()).await;
    // What the first jobs bring into memory is no part of a job.
    opened.fill(0, 100, 10).await;
    let mut queued = 100;
    let empty = resident_bytes();
    let mut submitted = queued;
    let mut medians = Vec::new();
    println!(
        "| store | jobs queued | memory per job, B | take, store, median µs | p99 | take, HTTP, median µs | p99 | another change, store, median µs |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for &depth in depths {
        let more = depth - queued;
        opened.fill(submitted, submitted + more, 1000).await;
        submitted += more;
        // In a database, jobs are not in the memory of this process.
        let bytes = match opened.database {
            Some(_) => "–".to_owned(),
            None => format!("{:.0}", (resident_bytes() - empty) as f64 / (depth - 100) as f64),
        };
        // A new one: the last one was idle for as long as it took to queue the jobs.
        let mut connection = Connection::open(address).await;
        let mut direct = Vec::new();
        let mut remote = Vec::new();
        // One that has nothing to do with jobs: how fast the disk is at that moment.
        let mut others = Vec::new();
        for _ in 0..TAKES {
            let start = Instant::now();
            let taken = store.take(ENDPOINT, "w", 1, Duration::ZERO).await.unwrap();
            direct.push(start.elapsed());
            assert_eq!(taken.len(), 1);
            end(store, &taken[0].id).await;
            let start = Instant::now();
            let (status, job) = connection.request("GET", "/v2/bench/job-take/w", "").await;
            remote.push(start.elapsed());
            assert_eq!(status, 200, "{job}");
            end(store, id(&job)).await;
            let start = Instant::now();
            store.set_paused(ENDPOINT, true).await.unwrap();
            others.push(start.elapsed());
            store.set_paused(ENDPOINT, false).await.unwrap();
        }
        queued = depth - 2 * TAKES;
        let [direct, direct_p99] = summary(direct);
        let [remote, remote_p99] = summary(remote);
        let [other, _] = summary(others);
        medians.push(direct);
        println!(
            "| {engine} | {depth} | {bytes} | {direct:.1} | {direct_p99:.1} | {remote:.1} | {remote_p99:.1} | {other:.1} |"
        );
    }
    stop.cancel();
    println!("\n{engine}: {}\n", verdict(&medians));
}

/// A worker that held more and more jobs would take longer for each.
async fn end(store: &Arc<dyn Store>, job: &str) {
    store.finish(ENDPOINT, "w", job, Outcome::completed(None)).await.unwrap();
}

/// Whether taking a job from the store takes as long at every depth.
fn verdict(medians: &[f64]) -> String {
    let ratios: Vec<_> = medians.iter().map(|median| median / medians[0]).collect();
    let is_flat = ratios.iter().all(|ratio| (ratio - 1.0).abs() <= FLAT);
    let said = if is_flat { "stayed within" } else { "did NOT stay within" };
    let at: Vec<_> = DEPTHS.iter().zip(&ratios).map(|(depth, ratio)| format!("{ratio:.2} at {depth}")).collect();
    let (percent, shortest, at) = (FLAT * 100.0, DEPTHS[0], at.join(", "));
    format!("the median take at the store {said} ±{percent:.0} % of the one at {shortest} jobs: {at}")
}

/// Median and 99th percentile in microseconds.
pub(crate) fn summary(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100].map(|index| times[index].as_secs_f64() * 1e6)
}
