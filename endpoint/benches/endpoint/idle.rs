//! What idle workers cost.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Connection};
use crate::process::cpu_time;
use crate::stores::{ENDPOINT, Opened, open};

const WORKERS: usize = 1000;
const HOLD: Duration = Duration::from_secs(25);
const HEARTBEAT: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(20);
/// Polls are held for longer, so that none begins or ends meanwhile.
const HELD: Duration = Duration::from_secs(10);

pub(crate) async fn measure(engines: &[&str]) {
    println!("## {WORKERS} idle workers: a poll held for {HOLD:?}, a heartbeat every {HEARTBEAT:?}\n");
    println!(
        "| store | processor time while polls are held, % of one core (server and workers together) | with new polls and heartbeats | \
         transactions/s in the database while polls are held | with new polls and heartbeats | without workers |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for &engine in engines {
        let opened = open(engine).await;
        let stop = CancellationToken::new();
        let address = http::serve(opened.store.clone(), HOLD, stop.clone()).await;
        // The first request creates the endpoint.
        opened.store.admit(ENDPOINT, "w0", None).await.unwrap();
        let empty = Load::of(&opened, HELD).await;
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            workers.spawn(async move {
                let mut connection = Connection::open(address).await;
                loop {
                    assert_eq!(connection.request("GET", &format!("/v2/bench/job-take/w{worker}"), "").await.0, 204);
                }
            });
        }
        while opened.store.health(ENDPOINT).await.unwrap().workers.idle < WORKERS {
            sleep(Duration::from_millis(50)).await;
        }
        let held = Load::of(&opened, HELD).await;
        for worker in 0..WORKERS {
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
        let all = Load::of(&opened, MEASURED).await;
        println!(
            "| {engine} | {:.2} | {:.2} | {} | {} | {} |",
            held.cpu * 100.0,
            all.cpu * 100.0,
            held.transactions(),
            all.transactions(),
            empty.transactions()
        );
        workers.abort_all();
        stop.cancel();
    }
    println!();
}

/// What happened in a while.
struct Load {
    /// Share of one core.
    cpu: f64,
    /// In the database, a second.
    transactions: Option<f64>,
}

impl Load {
    async fn of(opened: &Opened, lasting: Duration) -> Self {
        let transactions = || opened.database.as_ref().map(|database| database.transactions() as f64);
        let (before, cpu, start) = (transactions(), cpu_time(), Instant::now());
        sleep(lasting).await;
        let seconds = start.elapsed().as_secs_f64();
        let cpu = (cpu_time() - cpu).as_secs_f64() / seconds;
        let transactions = transactions().zip(before).map(|(after, before)| (after - before) / seconds);
        Self { cpu, transactions }
    }

    fn transactions(&self) -> String {
        self.transactions.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.1}"))
    }
}
