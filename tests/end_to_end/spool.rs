//! Results that outlive the worker: a queue that cannot be reached, a worker that is killed, a disk that fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::{Daemon, FakeQueue, Reply, Seen, Worker, WorkerOptions, binary, eventually, until, worker_env};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A queue, a folder for the spool, and workers that use both.
struct Bench {
    queue: FakeQueue,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { queue: FakeQueue::start(), folder: TempDir::new().unwrap() }
    }

    fn own(&self) -> PathBuf {
        self.folder.path().join("worker-1")
    }

    fn env(&self, worker: &str) -> Vec<(String, String)> {
        let mut env = worker_env(&self.queue.base(), worker);
        env.push(("RUNPOD_WORKER_SPOOL_DIR".to_owned(), self.folder.path().display().to_string()));
        env
    }

    fn worker(&self) -> Worker {
        self.worker_called("worker-1")
    }

    fn worker_called(&self, id: &str) -> Worker {
        Worker::start_with(self.env(id), &binary("echo"), WorkerOptions::default())
    }

    fn add(&self, jobs: impl IntoIterator<Item = String>) {
        jobs.into_iter().for_each(|id| self.queue.job(&id, &json!({ "text": id })));
    }

    /// Results cannot be delivered: the queue breaks the connection.
    fn shut(&self) {
        self.queue.every_done(Some(Reply::broken()));
    }

    /// Results are refused for good: 404.
    fn refuse(&self) {
        self.queue.every_done(Some(Reply::status(404)));
    }

    fn open(&self) {
        self.queue.every_done(None);
    }

    fn takes(&self) -> usize {
        self.queue.seen("job-take").len()
    }

    /// Runs `runpod-worker dead-letters`; returns whether it succeeded and what it printed.
    fn dead_letters(&self, args: &[&str]) -> (bool, String) {
        let args: Vec<String> = ["dead-letters"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let mut daemon = Daemon::start("dead-letters", &binary("runpod-worker"), &args, &self.env("worker-1"));
        let status = daemon.wait(Duration::from_secs(30));
        (status.success(), daemon.log())
    }

    /// The jobs whose results are safe on disk.
    fn spooled(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.own().join("results")) else { return Vec::new() };
        let files =
            folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "result"));
        // One that has just been delivered is gone by now.
        let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
        texts.map(|text| header(&text)["job"].as_str().unwrap().to_owned()).collect()
    }
}

fn header(file: &str) -> Value {
    serde_json::from_str(file.lines().nth(1).unwrap()).unwrap()
}

async fn spool_of(worker: &Worker) -> Value {
    worker.health().await["worker"]["outbox"]["spool"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_worker_at_any_moment_loses_no_spooled_result() {
    let from_clock = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let given = std::env::var("SPOOL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(from_clock));
    let mut random = fastrand::Rng::with_seed(seed);
    println!("SPOOL_SEED={seed}");
    let bench = Bench::new();
    let mut promised = Vec::new();
    for round in 0..5 {
        bench.shut();
        bench.add((0..20).map(|number| format!("job-{round}-{number}")));
        let mut worker = bench.worker();
        until("a result on disk", || !bench.spooled().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(random.u64(..300))).await;
        if random.bool() {
            // Killed while results leave.
            bench.open();
            tokio::time::sleep(Duration::from_millis(random.u64(..600))).await;
        }
        worker.daemon.signal(Signal::KILL);
        worker.daemon.wait(Duration::from_secs(10));
        // What was taken and not written to disk is lost with its worker; a real queue would give it to another one.
        bench.queue.clear_takes();
        bench.shut();
        promised.extend(bench.spooled());
    }
    bench.open();
    let left: Vec<String> = bench.spooled();
    let worker = bench.worker();
    until("everything to be delivered", || {
        let delivered = bench.queue.delivered();
        promised.iter().all(|job| delivered.contains(job)) && bench.spooled().is_empty()
    })
    .await;
    for job in bench.queue.delivered() {
        let bodies = bench.queue.results(&job);
        for body in &bodies {
            assert_eq!(body, &json!({"output": {"text": job}}), "{job}");
        }
        let found = promised.iter().filter(|promised| **promised == job).count();
        assert!(
            bodies.len() <= 1 + found,
            "{job} was delivered {} times, and found on disk {found} times",
            bodies.len()
        );
    }
    let spool = spool_of(&worker).await;
    assert!(spool["recovered"].as_u64().unwrap() >= left.len() as u64, "{spool}");
    assert_eq!((&spool["state"], &spool["setAside"]), (&json!("ok"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_killed_worker_are_delivered_before_the_first_poll() {
    let bench = Bench::new();
    bench.shut();
    bench.add(["a".to_owned(), "b".to_owned()]);
    let mut worker = bench.worker();
    until("both results on disk", || bench.spooled().len() == 2).await;
    worker.daemon.signal(Signal::KILL);
    worker.daemon.wait(Duration::from_secs(10));

    let modes = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777;
    assert_eq!(modes(&bench.own()), 0o700);
    for entry in std::fs::read_dir(bench.own().join("results")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(modes(&path), 0o600);
        assert!(!text.contains("test-worker-key") && !text.contains("http"), "{text}");
    }

    let (takes, pings) = (bench.takes(), bench.queue.seen("ping").len());
    let worker = bench.worker();
    eventually("the handler to be ready", || async {
        (worker.health().await["worker"]["slots"]["ready"] == 1).then_some(())
    })
    .await;
    until("a heartbeat that lists both", || {
        let lists_both = |ping: &Seen| ping.query.contains("job_id=a%2Cb") || ping.query.contains("job_id=a,b");
        bench.queue.seen("ping").iter().skip(pings).any(lists_both)
    })
    .await;
    let ready = reqwest::get(format!("{}/ready", worker.http)).await.unwrap().text().await.unwrap();
    assert!(ready.contains("earlier run"), "{ready}");
    assert_eq!(bench.takes(), takes, "nothing is asked for before they are delivered");

    bench.open();
    until("both results", || bench.queue.delivered().len() == 2).await;
    until("the first poll", || bench.takes() > takes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_with_another_id_delivers_what_its_predecessor_left() {
    let bench = Bench::new();
    bench.shut();
    bench.add(["a".to_owned(), "b".to_owned()]);
    let mut worker = bench.worker();
    until("both results on disk", || bench.spooled().len() == 2).await;
    // Its server answers once the spool is open.
    let living = bench.worker_called("worker-2");
    let second = spool_of(&living).await;
    assert_eq!(second["recovered"], 0, "{second}");
    assert_eq!(bench.spooled().len(), 2, "a living worker's results are its own");
    worker.daemon.signal(Signal::KILL);
    worker.daemon.wait(Duration::from_secs(10));

    bench.open();
    let replacement = bench.worker_called("worker-3");
    until("both results", || bench.queue.delivered().len() == 2).await;
    let accepted = bench.queue.seen("job-done").into_iter().filter(|seen| seen.status == Some(200));
    let posted: Vec<_> = accepted.filter_map(|seen| seen.worker).collect();
    assert_eq!(posted, ["worker-1", "worker-1"], "as the worker that ran the jobs would have posted them");
    until("nothing to be left of it", || !bench.own().exists()).await;
    assert!(replacement.daemon.log().contains("adopted"), "{}", replacement.daemon.log());
    let spool = spool_of(&replacement).await;
    assert_eq!(spool["recovered"], 2, "{spool}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_worker_whose_folder_is_adopted_goes_on() {
    let bench = Bench::new();
    let worker = bench.worker();
    worker.health().await;
    // As by a worker that cannot see its lock.
    std::fs::remove_dir_all(bench.own()).unwrap();
    bench.shut();
    bench.add(["a".to_owned()]);
    until("the result on disk", || bench.spooled() == ["a"]).await;
    std::fs::remove_dir_all(bench.own()).unwrap();
    bench.refuse();
    eventually("the result to be refused", || async {
        let spool = spool_of(&worker).await;
        (spool["deadLetters"] == 1 && spool["state"] == "ok").then_some(())
    })
    .await;
    assert!(bench.own().join("lock").exists());
    bench.open();
    bench.add(["b".to_owned()]);
    until("the next job", || bench.queue.delivered().contains("b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_disk_stops_the_poll_and_not_the_delivery() {
    let bench = Bench::new();
    let worker = bench.worker();
    let results = bench.own().join("results");
    worker.health().await;
    std::fs::rename(&results, bench.own().join("elsewhere")).unwrap();
    // A missing folder would be made again.
    std::fs::write(&results, "").unwrap();
    bench.shut();
    bench.add(["a".to_owned()]);
    let spool = eventually("the worker to be degraded", || async {
        let spool = spool_of(&worker).await;
        (spool["state"] == "degraded").then_some(spool)
    })
    .await;
    assert!(spool["reason"].as_str().unwrap().contains("--spool-dir"), "{spool}");
    eventually("the reason on /ready", || async {
        let ready = reqwest::get(format!("{}/ready", worker.http)).await.ok()?.text().await.ok()?;
        ready.contains("cannot be kept safe").then_some(())
    })
    .await;
    bench.add(["b".to_owned()]);
    bench.open();
    until("the result in memory", || bench.queue.delivered().contains("a")).await;
    assert!(!bench.queue.delivered().contains("b"), "no job is taken while results cannot be kept safe");

    std::fs::remove_file(&results).unwrap();
    std::fs::rename(bench.own().join("elsewhere"), &results).unwrap();
    until("the next job", || bench.queue.delivered().contains("b")).await;
    assert_eq!(spool_of(&worker).await["state"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_can_be_listed_shown_sent_again_and_thrown_away() {
    let bench = Bench::new();
    assert_eq!(bench.dead_letters(&["list"]).1.lines().count(), 1, "only the heading");
    bench.refuse();
    bench.add(["a".to_owned(), "b".to_owned()]);
    let worker = bench.worker();
    eventually("both to be refused", || async { (spool_of(&worker).await["deadLetters"] == 2).then_some(()) }).await;
    let (listed, text) = bench.dead_letters(&["list"]);
    assert!(listed && text.lines().count() == 3 && text.contains("404"), "{text}");
    let (shown, text) = bench.dead_letters(&["show", "a"]);
    assert!(shown && text.contains(r#"{"output":{"text":"a"}}"#), "{text}");
    let (sent, text) = bench.dead_letters(&["resend", "a"]);
    assert!(!sent && text.contains("404") && text.contains("it is kept"), "{text}");

    bench.open();
    assert!(bench.dead_letters(&["resend", "a"]).0);
    assert_eq!(bench.queue.results("a").len(), 1);
    assert!(bench.dead_letters(&["discard", "--all"]).0);
    assert_eq!(bench.dead_letters(&["list"]).1.lines().count(), 1);
    let (shown, text) = bench.dead_letters(&["show", "a"]);
    assert!(!shown && text.contains("there is no dead letter `a`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_never_share_a_spool() {
    let bench = Bench::new();
    let first = bench.worker();
    first.health().await;
    let mut second = bench.worker().daemon;
    assert_eq!(second.wait(Duration::from_secs(30)).code(), Some(64));
    assert!(second.log().contains("RUNPOD_POD_ID"), "{}", second.log());
}
