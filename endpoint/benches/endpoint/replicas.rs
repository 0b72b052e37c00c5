//! Endpoints that share a database: how long a job takes from one to the other, streams through two of them, and what a second one adds.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runpod_endpoint::store::Store;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::depth::summary;
use crate::http::{self, Connection, id};
use crate::quota::Quota;
use crate::stores::{Database, ENDPOINT, database, fill, kilobyte};
use crate::throughput::{rate, work_all};

/// The argument with which this program calls itself.
pub(crate) const CHILD: &str = "replica-of";

const HAND_OVERS: usize = 1_000;
const STREAMS: usize = 100;
const ITEM_INTERVAL: Duration = Duration::from_millis(20);
const CYCLES: usize = 20_000;
const CALLERS: usize = 64;
/// Of a core. Little, so that what is left of this machine is enough for the database and the callers.
const SHARE: f64 = 0.1;

pub(crate) async fn measure(is_quick: bool) {
    if database().is_none() {
        return;
    }
    println!("## Endpoints that share a database\n");
    hand_over().await;
    streams(if is_quick { Duration::from_secs(5) } else { Duration::from_secs(20) }).await;
    second_replica(if is_quick { CYCLES / 4 } else { CYCLES }).await;
}

/// A worker waits at one endpoint while a client submits to the other.
async fn hand_over() {
    let database = database().unwrap();
    let stop = CancellationToken::new();
    let hold = Duration::from_secs(25);
    let here = http::serve(database.open().await, hold, stop.clone()).await;
    let there = http::serve(database.open().await, hold, stop.clone()).await;
    let (mut client, mut worker) = (Connection::open(here).await, Connection::open(there).await);
    let body = format!("{{\"input\":{}}}", kilobyte().get());
    let mut times = Vec::new();
    for round in 0..HAND_OVERS + 50 {
        let taken = async {
            let (status, job) = worker.request("GET", "/v2/bench/job-take/w", "").await;
            assert_eq!(status, 200, "{job}");
            (Instant::now(), job)
        };
        let submitted = async {
            // The poll waits by then.
            sleep(Duration::from_millis(20)).await;
            let begin = Instant::now();
            assert_eq!(client.request("POST", "/v2/bench/run", &body).await.0, 200);
            begin
        };
        let ((end, job), begin) = tokio::join!(taken, submitted);
        let done = format!("/v2/bench/job-done/w/{}?isStream=false", id(&job));
        assert_eq!(worker.request("POST", &done, "{\"output\":1}").await.0, 200);
        if round >= 50 {
            times.push(end.duration_since(begin));
        }
    }
    stop.cancel();
    let [median, p99] = summary(times).map(|micros| micros / 1000.0);
    println!("Submitted to one, taken through the other: median {median:.1} ms, p99 {p99:.1} ms.\n");
}

/// Each worker sends an item every 20 ms to one endpoint, and its client reads from the other.
async fn streams(lasting: Duration) {
    let database = database().unwrap();
    let (here, there) = (database.open().await, database.open().await);
    fill(&here, 0, STREAMS, STREAMS).await;
    let mut jobs = Vec::new();
    for worker in 0..STREAMS {
        let taken = here.take(ENDPOINT, &format!("w{worker}"), 1, Duration::ZERO).await.unwrap();
        jobs.push(taken[0].id.clone());
    }
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    let items = usize::try_from(lasting.as_millis() / ITEM_INTERVAL.as_millis()).unwrap();
    for (worker, job) in jobs.iter().enumerate() {
        let (store, job) = (Arc::clone(&here), job.clone());
        tasks.spawn(async move {
            let mut due = interval(ITEM_INTERVAL);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for _ in 0..items {
                let at = due.tick().await.into_std().duration_since(start).as_micros();
                let item = RawValue::from_string(at.to_string()).unwrap().into();
                store.stream_item(ENDPOINT, &format!("w{worker}"), &job, item).await.unwrap();
            }
            Vec::new()
        });
    }
    for job in jobs {
        let store = Arc::clone(&there);
        tasks.spawn(async move {
            let mut delays = Vec::new();
            while delays.len() < items {
                let (_, read) = store.drain(ENDPOINT, &job, Duration::from_secs(10)).await.unwrap();
                let now = start.elapsed();
                delays.extend(
                    read.iter().map(|item| now.saturating_sub(Duration::from_micros(item.get().parse().unwrap()))),
                );
            }
            delays
        });
    }
    let delays: Vec<Duration> = tasks.join_all().await.concat();
    let took = start.elapsed();
    let [median, p99] = summary(delays).map(|micros| micros / 1000.0);
    println!(
        "{STREAMS} streams of {:.0} items/s for {lasting:?}: the last item was read {:.1} s after the first was due; each item was read \
         {median:.0} ms after it was due, median, p99 {p99:.0} ms.\n",
        1.0 / ITEM_INTERVAL.as_secs_f64(),
        took.as_secs_f64()
    );
}

/// Each endpoint in a process of its own, as on a host of its own. All share this machine: without a share of a core for each, they take
/// from each other, and from the database, what a host of its own would have.
async fn second_replica(jobs: usize) {
    println!("| endpoints | each may use | take→done cycles/s, {CALLERS} callers, HTTP |");
    println!("| ---: | --- | ---: |");
    let mut gains = Vec::new();
    for share in [Some(SHARE), None] {
        let limit = share.map_or_else(|| "what there is".to_owned(), |share| format!("{share} of a core"));
        let mut rates = Vec::new();
        for replicas in [1, 2] {
            let quota = share.map(Quota::new);
            if let Some(Err(error)) = &quota {
                println!("| {replicas} | {limit} | not measured: no control group can be made: {error} |");
                break;
            }
            let quota = quota.and_then(Result::ok);
            let cycles = cycles(replicas, quota.as_ref(), jobs).await;
            println!("| {replicas} | {limit} | {cycles:.0} |");
            rates.push(cycles);
        }
        if let [one, two] = rates[..] {
            gains.push(format!("{:.2} with {limit}", two / one));
        }
    }
    println!("\nTwo endpoints did this many times what one did: {}.\n", gains.join(", "));
}

/// How many jobs a second so many endpoints get through, each within a quota.
async fn cycles(replicas: usize, quota: Option<&Quota>, jobs: usize) -> f64 {
    let database = database().unwrap();
    let filler = database.open().await;
    fill(&filler, 0, jobs, CALLERS).await;
    drop(filler);
    let mut children = Vec::new();
    for number in 0..replicas {
        children.push(Replica::start(&database).await);
        if let Some(quota) = quota {
            quota.limit(number, children[number].child.id().unwrap());
        }
    }
    let share = |of: usize| of / children.len();
    let mut tasks = JoinSet::new();
    for (number, child) in children.iter().enumerate() {
        let (address, callers, share) = (child.address, share(CALLERS), share(jobs));
        tasks.spawn(async move { work_all(address, &format!("r{number}-"), callers, share).await });
    }
    rate(jobs, async { drop(tasks.join_all().await) }).await
}

/// An endpoint in a process of its own. Ends with its standard input.
struct Replica {
    address: SocketAddr,
    child: Child,
}

impl Replica {
    async fn start(database: &Database) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the program runs itself")]
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([CHILD, &database.url]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        Self { address, child }
    }
}

/// What such a process does.
pub(crate) async fn serve(url: &str) {
    let store =
        runpod_endpoint::store::PostgresStore::open(url.parse().unwrap(), runpod_endpoint::store::Limits::default());
    let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
    let address = http::serve(store, Duration::from_secs(25), CancellationToken::new()).await;
    println!("{address}");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await.unwrap().unwrap();
}
