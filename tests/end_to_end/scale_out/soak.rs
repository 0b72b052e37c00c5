//! Everything is killed and every link is cut at random, the primary of the database included: no acknowledged job is lost, none ends
//! twice, and none is run by two live workers at a time.
//!
//! A minute with the other tests, ten with `make soak`: `SOAK_SECONDS` says how long, `SOAK_SEED` replays what was done.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use end_to_end_tests::{Cut, Host, Lab, PostgresCluster, binary, eventually, until};
use fastrand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::clients::{Accepted, Clients, check_order};
use super::history;
use super::site::{Replica, SLOTS, WorkerHost, http, status, submitted};

const DATABASE: &str = "jobs";
/// Jobs that are submitted one after the other when nothing is broken.
const IN_ORDER: usize = 40;
/// Longer than any of the failures may hold up a job.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// What happens to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// The primary is killed; a standby is promoted.
    Promote,
    /// The primary is cut off from everybody, then fenced; a standby is promoted.
    Isolate,
    /// The primary is killed and comes back.
    Restart,
    /// A standby is killed.
    KillStandby,
    /// A standby is cut off.
    LoseStandby,
    /// Both standbys are cut off: commits wait.
    LoseStandbys,
}

const BLOWS: [Blow; 6] =
    [Blow::Promote, Blow::Isolate, Blow::Restart, Blow::KillStandby, Blow::LoseStandby, Blow::LoseStandbys];

/// What happens before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    KillReplica,
    /// A replica does not reach the primary.
    PartReplica,
    KillWorker,
    /// A worker does not reach its replica.
    PartWorker,
    /// Clients do not reach a replica.
    PartClients,
}

const MISHAPS: [Mishap; 5] =
    [Mishap::KillReplica, Mishap::PartReplica, Mishap::KillWorker, Mishap::PartWorker, Mishap::PartClients];

/// What is to be mended.
enum Damage {
    Nothing,
    Link(#[expect(dead_code, reason = "heals when it is dropped")] Cut),
    Server(usize),
    /// The primary is to be replaced.
    Primary(Option<Cut>),
    Replica(usize),
    Worker(usize),
}

struct Soak {
    lab: Lab,
    rng: Rng,
    cluster: PostgresCluster,
    replicas: [Replica; 2],
    workers: Vec<WorkerHost>,
    kills: Vec<(String, SystemTime)>,
    clients: Host,
    diary: PathBuf,
    /// Submitted in calm moments, in order.
    in_order: Vec<Vec<String>>,
    failovers: usize,
}

impl Soak {
    async fn start(lab: Lab, clients: Host, seed: u64) -> Option<Self> {
        let cluster = PostgresCluster::start(&lab).await?;
        let url = cluster.database(DATABASE);
        let replicas = [Replica::start(&lab, &url), Replica::start(&lab, &url)];
        for replica in &replicas {
            replica.ready().await;
        }
        history::record(&|sql| cluster.sql(DATABASE, sql));
        let workers = [0, 1, 0].iter().enumerate();
        let workers =
            workers.map(|(at, replica)| WorkerHost::start(&lab, &replicas[*replica], &format!("w{at}"))).collect();
        let diary = lab.folder().join("diary");
        let (rng, kills, in_order) = (Rng::with_seed(seed), Vec::new(), Vec::new());
        Some(Self { lab, rng, cluster, replicas, workers, kills, clients, diary, in_order, failovers: 0 })
    }

    fn sql(&self) -> impl Fn(&str) -> String {
        move |sql: &str| self.cluster.sql(DATABASE, sql)
    }

    fn strike_database(&mut self, blow: Blow) -> Damage {
        let primary = self.cluster.primary();
        let standbys = self.cluster.standbys();
        let standby = standbys[self.rng.usize(0..2)];
        match blow {
            Blow::Promote => {
                self.cluster.kill(primary);
                Damage::Primary(None)
            }
            Blow::Isolate => Damage::Primary(Some(self.lab.isolate(self.cluster.host(primary)))),
            Blow::Restart => {
                self.cluster.kill(primary);
                Damage::Server(primary)
            }
            Blow::KillStandby => {
                self.cluster.kill(standby);
                Damage::Server(standby)
            }
            Blow::LoseStandby => Damage::Link(self.part_standbys(&[standby])),
            Blow::LoseStandbys => Damage::Link(self.part_standbys(&standbys)),
        }
    }

    fn part_standbys(&self, standbys: &[usize]) -> Cut {
        let primary = self.cluster.host(self.cluster.primary());
        let pairs: Vec<_> = standbys.iter().map(|standby| (primary, self.cluster.host(*standby))).collect();
        self.lab.part(&pairs)
    }

    fn strike(&mut self, mishap: Mishap) -> Damage {
        let at = self.rng.usize(0..6);
        let (replica, worker) = (at % 2, at % 3);
        match mishap {
            Mishap::KillReplica => {
                self.replicas[replica].kill();
                Damage::Replica(replica)
            }
            Mishap::PartReplica => {
                let primary = self.cluster.host(self.cluster.primary());
                Damage::Link(self.lab.part(&[(&self.replicas[replica].host, primary)]))
            }
            Mishap::KillWorker => {
                self.workers[worker].kill();
                self.kills.push((self.workers[worker].id.clone(), SystemTime::now()));
                Damage::Worker(worker)
            }
            Mishap::PartWorker => {
                let worker = &self.workers[worker].host;
                let pairs: Vec<_> = self.replicas.iter().map(|replica| (worker, &replica.host)).collect();
                Damage::Link(self.lab.part(&pairs))
            }
            Mishap::PartClients => Damage::Link(self.lab.part(&[(&self.clients, &self.replicas[replica].host)])),
        }
    }

    async fn mend(&mut self, damage: Damage) {
        match damage {
            Damage::Nothing | Damage::Link(_) => {}
            Damage::Server(node) => self.cluster.run(node),
            Damage::Primary(cut) => {
                let old = self.cluster.primary();
                self.cluster.fail_over().await;
                drop(cut);
                self.cluster.rejoin(old);
                self.failovers += 1;
            }
            Damage::Replica(replica) => self.replicas[replica].run(),
            Damage::Worker(worker) => self.workers[worker].run(),
        }
    }

    /// One round: something is broken, for a moment, and mended.
    #[expect(clippy::print_stderr, reason = "a failed run is understood from what was broken when")]
    async fn round(&mut self, blow: Option<Blow>, mishap: Option<Mishap>) {
        let database = blow.map_or(Damage::Nothing, |blow| self.strike_database(blow));
        let other = mishap.map_or(Damage::Nothing, |mishap| self.strike(mishap));
        let outage = self.rng.u64(300..3000);
        eprintln!("{blow:?} and {mishap:?} for {outage} ms");
        sleep(Duration::from_millis(outage)).await;
        self.mend(database).await;
        // A replica that starts needs the database.
        self.cluster.in_step().await;
        self.mend(other).await;
        self.recover().await;
    }

    /// Waits until everything works, and every worker has reported: otherwise a job might be lost for good reason.
    async fn recover(&mut self) {
        for replica in &self.replicas {
            replica.ready().await;
        }
        let now = self.cluster.sql(DATABASE, "SELECT extract(epoch FROM clock_timestamp())::bigint + 1");
        let sql =
            format!("SELECT count(*) FROM workers WHERE (record::json -> 'last_contact' ->> 'secs')::bigint >= {now}");
        let all = self.workers.len().to_string();
        until("every worker to report", || self.cluster.sql(DATABASE, &sql) == all).await;
        for worker in &mut self.workers {
            assert!(worker.daemon.is_running(), "worker {} ended by itself", worker.id);
        }
    }

    /// Submits jobs one after the other through both replicas, while nothing is broken: they are taken in this order.
    async fn submit_in_order(&mut self) {
        let (http, mut ids) = (http(), Vec::new());
        for number in 0..IN_ORDER {
            let input = json!({"do": "diary", "file": self.diary, "ms": 10});
            ids.push(submitted(&http, &self.replicas[number % 2].base(), &input).await);
        }
        self.in_order.push(ids);
    }

    /// All kinds of failures once, in random order, and more of them until the time is over.
    async fn rage(&mut self, time: Duration) {
        let begin = Instant::now();
        let (mut blows, mut mishaps) = (BLOWS.to_vec(), MISHAPS.to_vec());
        self.rng.shuffle(&mut blows);
        self.rng.shuffle(&mut mishaps);
        let mut rounds = 0;
        while begin.elapsed() < time || !blows.is_empty() || !mishaps.is_empty() {
            // One at a time at first, so that a failure shows what it comes from, and then two.
            let (blow, mishap) = match rounds {
                0..3 => (blows.pop(), None),
                3..6 => (None, mishaps.pop()),
                _ => {
                    let blow = blows.pop().unwrap_or_else(|| BLOWS[self.rng.usize(0..BLOWS.len())]);
                    let mishap = mishaps.pop().unwrap_or_else(|| MISHAPS[self.rng.usize(0..MISHAPS.len())]);
                    (Some(blow), Some(mishap))
                }
            };
            self.round(blow, mishap).await;
            rounds += 1;
            if rounds % 10 == 0 {
                self.submit_in_order().await;
            }
        }
    }

    async fn settle(&self) {
        let begin = Instant::now();
        loop {
            let open = history::open(&self.sql());
            if open.is_empty() {
                return;
            }
            assert!(begin.elapsed() < SETTLE_LIMIT, "these jobs do not end:\n{open}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every job that was acknowledged has completed once, and in order.
    async fn judge(&self, accepted: &[Accepted]) {
        assert_eq!(history::contradictions(&self.sql()), "");
        let numbers = history::numbers(&self.sql());
        let http = http();
        for (at, one) in accepted.iter().enumerate() {
            let base = self.replicas[at % 2].base();
            let job = eventually("a status", || status(&http, &base, &one.id)).await;
            assert_eq!((&job["status"], &job["output"]["job"]), (&json!("COMPLETED"), &json!(one.id)), "{job}");
        }
        check_order(accepted, &numbers);
        for ids in &self.in_order {
            let slots = SLOTS * self.workers.len();
            assert_eq!(history::overtaken(&self.sql(), ids, slots), "", "passed by too many");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_acknowledged_job_is_lost_or_ends_twice_whatever_is_killed_or_cut_off() {
    // Built outside of the lab, from which no registry is reached.
    binary("runpod-endpoint");
    let Some(lab) = Lab::start() else { return };
    let random =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.subsec_nanos().into());
    let (seed, seconds) = (number("SOAK_SEED").unwrap_or_else(random), number("SOAK_SECONDS").unwrap_or(60));
    eprintln!("SOAK_SEED={seed} SOAK_SECONDS={seconds} replays this run");
    let clients = lab.host();
    clients.clone().enter(async move {
        let Some(mut soak) = Soak::start(lab, clients, seed).await else { return };
        let submitting = Clients::start(&soak.replicas, &soak.diary, seed);
        soak.recover().await;
        soak.rage(Duration::from_secs(seconds)).await;
        let (accepted, refused) = submitting.end().await;
        soak.submit_in_order().await;
        soak.settle().await;
        soak.judge(&accepted).await;
        let again = history::check_runs(&soak.diary, &soak.kills);
        eprintln!(
            "{} jobs acknowledged, {refused} refused or unanswered; {} workers killed, {again} jobs run again; {} failovers",
            accepted.len(),
            soak.kills.len(),
            soak.failovers,
        );
        assert!(soak.failovers >= 2 && !soak.kills.is_empty(), "too little has happened");
    });
}
