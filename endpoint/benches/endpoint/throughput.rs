//! Jobs per second.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Connection, id};
use crate::stores::{empty, fill, kilobyte, open};

const JOBS: usize = 20_000;

const CALLERS: [usize; 3] = [1, 64, 512];

/// `callers`: how many of them; none for all that there are.
pub(crate) async fn measure(engines: &[&str], callers: &[usize]) {
    let all_callers = if callers.is_empty() { &CALLERS } else { callers };
    println!("## Throughput, 1 kB inputs and outputs\n");
    println!(
        "| store | callers | accepted jobs/s, HTTP | take→done cycles/s, HTTP | accepted jobs/s, store | take→done cycles/s, store |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for &engine in engines {
        for &callers in all_callers {
            // One caller at a time waits for the disk each time.
            let jobs = if callers == 1 && engine != "memory" { JOBS / 40 } else { JOBS };
            let opened = open(engine).await;
            let stop = CancellationToken::new();
            let address = http::serve(opened.store.clone(), Duration::from_secs(25), stop.clone()).await;
            let accepted = rate(jobs, submit_all(address, callers, jobs)).await;
            let cycles = rate(jobs, work_all(address, "w", callers, jobs)).await;
            stop.cancel();
            let opened = open(engine).await;
            let store = &opened.store;
            let store_accepted = rate(jobs, fill(store, 0, jobs, callers)).await;
            let store_cycles = rate(jobs, async { assert_eq!(empty(store, callers).await, jobs) }).await;
            println!(
                "| {engine} | {callers} | {accepted:.0} | {cycles:.0} | {store_accepted:.0} | {store_cycles:.0} |"
            );
        }
    }
    println!();
}

pub(crate) async fn rate(jobs: usize, work: impl Future<Output = ()>) -> f64 {
    let start = Instant::now();
    work.await;
    jobs as f64 / start.elapsed().as_secs_f64()
}

async fn submit_all(address: SocketAddr, clients: usize, jobs: usize) {
    let body = format!("{{\"input\":{}}}", kilobyte().get());
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let body = body.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            for _ in (client..jobs).step_by(clients) {
                let (status, reply) = connection.request("POST", "/v2/bench/run", &body).await;
                assert_eq!(status, 200, "{reply}");
            }
        });
    }
    tasks.join_all().await;
}

/// Takes and ends jobs, as workers whose names begin with `name`.
pub(crate) async fn work_all(address: SocketAddr, name: &str, workers: usize, jobs: usize) {
    let body = format!("{{\"output\":{}}}", kilobyte().get());
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let (body, worker_id) = (body.clone(), format!("{name}{worker}"));
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            for _ in (worker..jobs).step_by(workers) {
                let (status, job) = connection.request("GET", &format!("/v2/bench/job-take/{worker_id}"), "").await;
                assert_eq!(status, 200, "{job}");
                let done = format!("/v2/bench/job-done/{worker_id}/{}?isStream=false", id(&job));
                assert_eq!(connection.request("POST", &done, &body).await.0, 200);
            }
        });
    }
    tasks.join_all().await;
}
