//! What idle workers cost.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Connection};
use crate::process::cpu_time;
use crate::stores::{ENDPOINT, ENGINES, open};

const WORKERS: usize = 1000;
const HOLD: Duration = Duration::from_secs(25);
const HEARTBEAT: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(20);

pub(crate) async fn measure() {
    println!("## {WORKERS} idle workers: a poll held for {HOLD:?}, a heartbeat every {HEARTBEAT:?}\n");
    println!("| store | processor time, % of one core (server and workers together) |");
    println!("| --- | ---: |");
    for engine in ENGINES {
        let (store, _folder) = open(engine);
        let stop = CancellationToken::new();
        let address = http::serve(store.clone(), HOLD, stop.clone()).await;
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            workers.spawn(async move {
                let mut connection = Connection::open(address).await;
                loop {
                    assert_eq!(connection.request("GET", &format!("/v2/bench/job-take/w{worker}"), "").await.0, 204);
                }
            });
            workers.spawn(async move {
                // Spread over the interval, as workers that were started one after the other.
                sleep(HEARTBEAT * u32::try_from(worker).unwrap() / u32::try_from(WORKERS).unwrap()).await;
                let mut connection = Connection::open(address).await;
                loop {
                    assert_eq!(connection.request("GET", &format!("/v2/bench/ping/w{worker}"), "").await.0, 200);
                    sleep(HEARTBEAT).await;
                }
            });
        }
        while store.health(ENDPOINT).await.unwrap().workers.idle < WORKERS {
            sleep(Duration::from_millis(50)).await;
        }
        let (cpu, start) = (cpu_time(), Instant::now());
        sleep(MEASURED).await;
        let share = (cpu_time() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("| {engine} | {:.2} |", share * 100.0);
        workers.abort_all();
        stop.cancel();
    }
    println!();
}
