//! Results that outlive the worker: a queue that cannot be reached, a worker that is killed, a disk that fails.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use end_to_end_tests::{Daemon, binary, eventually, free_port};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How the queue treats results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Takes them.
    Open,
    /// Breaks the connection, as a queue that is down.
    Shut,
    /// 404.
    Unknown,
}

#[derive(Debug)]
struct State {
    jobs: VecDeque<String>,
    door: Door,
    /// Requests for jobs so far.
    takes: usize,
    /// Bodies accepted for each job.
    results: BTreeMap<String, Vec<String>>,
    /// Worker in the address to which the last result of each job was posted.
    posted_by: BTreeMap<String, String>,
    /// Query of the last heartbeat.
    ping: String,
}

/// A queue in this process that does what it is told.
#[derive(Clone, Debug)]
struct Queue {
    state: Arc<Mutex<State>>,
    base: String,
}

impl Queue {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v2/test", listener.local_addr().unwrap());
        let state = State {
            jobs: VecDeque::new(),
            door: Door::Open,
            takes: 0,
            results: BTreeMap::new(),
            posted_by: BTreeMap::new(),
            ping: String::new(),
        };
        let queue = Self { state: Arc::new(Mutex::new(state)), base };
        let server = queue.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let queue = server.clone();
                tokio::spawn(async move { queue.serve(stream).await });
            }
        });
        queue
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn door(&self, door: Door) {
        self.lock().door = door;
    }

    fn add(&self, jobs: impl IntoIterator<Item = String>) {
        self.lock().jobs.extend(jobs);
    }

    /// One request, one answer; then the connection ends.
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut received = Vec::new();
        let head = loop {
            if stream.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        while received.len() < head + length.unwrap_or(0) {
            if stream.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        }
        let line = String::from_utf8_lossy(&received[..head]).lines().next()?.to_owned();
        let target = line.split(' ').nth(1)?.to_owned();
        let body = String::from_utf8_lossy(&received[head..]).into_owned();
        // A poll that the worker has given up gets no job: nobody would ever hear of it.
        let (status, reply) = tokio::select! {
            biased;
            _ = stream.read_u8() => return None,
            answer = self.answer(&target, body) => answer?,
        };
        let length = reply.len();
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.write_all(reply.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()
    }

    /// `None` breaks the connection.
    async fn answer(&self, target: &str, body: String) -> Option<(u16, String)> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut words = path.split('/').skip(3);
        match words.next()? {
            "job-take" => {
                self.lock().takes += 1;
                for _ in 0..20 {
                    if let Some(id) = self.lock().jobs.pop_front() {
                        return Some((200, json!({"id": id, "input": {"text": id}}).to_string()));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Some((204, String::new()))
            }
            "job-done" => {
                let worker = words.next()?.to_owned();
                let job = words.next()?.to_owned();
                let mut state = self.lock();
                state.posted_by.insert(job.clone(), worker);
                match state.door {
                    Door::Shut => None,
                    Door::Unknown => Some((404, "{}".to_owned())),
                    Door::Open => {
                        state.results.entry(job).or_default().push(body);
                        Some((200, "{}".to_owned()))
                    }
                }
            }
            "ping" => {
                self.lock().ping = query.to_owned();
                Some((200, "{}".to_owned()))
            }
            _ => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Some((204, String::new()))
            }
        }
    }

    fn env(&self, spool: &Path, worker: &str) -> Vec<(String, String)> {
        let base = &self.base;
        [
            ("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/job-take/$ID?gpu=LOCAL")),
            ("RUNPOD_WEBHOOK_POST_OUTPUT", format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=LOCAL")),
            ("RUNPOD_WEBHOOK_PING", format!("{base}/ping/$RUNPOD_POD_ID?gpu=LOCAL")),
            ("RUNPOD_PING_INTERVAL", "1000".to_owned()),
            ("RUNPOD_AI_API_KEY", "hunter2-the-key".to_owned()),
            ("RUNPOD_POD_ID", worker.to_owned()),
            // The machine that runs tests is no production machine.
            ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true".to_owned()),
            ("RUNPOD_WORKER_SPOOL_DIR", spool.display().to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

/// A queue, a folder for the spool, and workers that use both.
struct Bench {
    queue: Queue,
    folder: TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self { queue: Queue::start().await, folder: TempDir::new().unwrap() }
    }

    fn own(&self) -> PathBuf {
        self.folder.path().join("worker-1")
    }

    /// A worker and the address of its own server.
    fn worker(&self) -> (Daemon, String) {
        self.worker_called("worker-1")
    }

    fn worker_called(&self, id: &str) -> (Daemon, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let handler = binary("echo").to_string_lossy().into_owned();
        let args = ["run", "--http-bind", &address, "--", &handler].map(str::to_owned);
        let daemon = Daemon::start("worker", &binary("runpod-worker"), &args, &self.queue.env(self.folder.path(), id));
        (daemon, format!("http://{address}"))
    }

    /// Runs `runpod-worker dead-letters`; returns whether it succeeded and what it printed.
    fn dead_letters(&self, args: &[&str]) -> (bool, String) {
        let args: Vec<String> = ["dead-letters"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let env = self.queue.env(self.folder.path(), "worker-1");
        let mut daemon = Daemon::start("dead-letters", &binary("runpod-worker"), &args, &env);
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

async fn health(http: &str) -> Option<Value> {
    reqwest::get(format!("{http}/health")).await.ok()?.json().await.ok()
}

/// Waits until something is true.
async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    eventually(what, || std::future::ready(is_true().then_some(()))).await;
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_worker_at_any_moment_loses_no_spooled_result() {
    let from_clock = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let given = std::env::var("SPOOL_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut seed: u64 = given.unwrap_or_else(|| u64::from(from_clock) | 1);
    println!("SPOOL_SEED={seed}");
    let bench = Bench::new().await;
    let mut promised = Vec::new();
    for round in 0..5 {
        bench.queue.door(Door::Shut);
        bench.queue.add((0..20).map(|number| format!("job-{round}-{number}")));
        let (mut worker, _) = bench.worker();
        until("a result on disk", || !bench.spooled().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(random(&mut seed, 300))).await;
        if random(&mut seed, 2) == 0 {
            // Killed while results leave.
            bench.queue.door(Door::Open);
            tokio::time::sleep(Duration::from_millis(random(&mut seed, 600))).await;
        }
        worker.signal(Signal::KILL);
        worker.wait(Duration::from_secs(10));
        // What had been taken and not written down dies with its worker; the queue would give it to another.
        bench.queue.lock().jobs.clear();
        bench.queue.door(Door::Shut);
        promised.extend(bench.spooled());
    }
    bench.queue.door(Door::Open);
    let (_worker, http) = bench.worker();
    let left: Vec<String> = bench.spooled();
    until("everything to be delivered", || {
        let state = bench.queue.lock();
        promised.iter().all(|job| state.results.contains_key(job)) && bench.spooled().is_empty()
    })
    .await;
    for (job, bodies) in &bench.queue.lock().results {
        let expected = json!({"output": {"text": job}});
        for body in bodies {
            assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected, "{job}");
        }
        let found = promised.iter().filter(|promised| *promised == job).count();
        assert!(
            bodies.len() <= 1 + found,
            "{job} was delivered {} times, and found on disk {found} times",
            bodies.len()
        );
    }
    let spool =
        eventually("the worker's health", || async { Some(health(&http).await?["worker"]["outbox"]["spool"].clone()) });
    let spool = spool.await;
    assert!(spool["recovered"].as_u64().unwrap() >= left.len() as u64, "{spool}");
    assert_eq!((&spool["state"], &spool["setAside"]), (&json!("ok"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_dead_worker_are_delivered_before_the_first_poll() {
    let bench = Bench::new().await;
    bench.queue.door(Door::Shut);
    bench.queue.add(["a".to_owned(), "b".to_owned()]);
    let (mut worker, _) = bench.worker();
    until("both results on disk", || bench.spooled().len() == 2).await;
    worker.signal(Signal::KILL);
    worker.wait(Duration::from_secs(10));

    let modes = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777;
    assert_eq!(modes(&bench.own()), 0o700);
    for entry in std::fs::read_dir(bench.own().join("results")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(modes(&path), 0o600);
        assert!(!text.contains("hunter2") && !text.contains("http"), "{text}");
    }

    bench.queue.lock().ping.clear();
    let takes = bench.queue.lock().takes;
    let (_worker, http) = bench.worker();
    eventually("the handler to be ready", || async {
        let health = health(&http).await?;
        (health["worker"]["slots"]["ready"] == 1).then_some(())
    })
    .await;
    until("a heartbeat that lists both", || {
        let ping = bench.queue.lock().ping.clone();
        ping.contains("job_id=a%2Cb") || ping.contains("job_id=a,b")
    })
    .await;
    let ready = reqwest::get(format!("{http}/ready")).await.unwrap().text().await.unwrap();
    assert!(ready.contains("earlier run"), "{ready}");
    assert_eq!(bench.queue.lock().takes, takes, "nothing is asked for before they are delivered");

    bench.queue.door(Door::Open);
    until("both results", || bench.queue.lock().results.len() == 2).await;
    until("the first poll", || bench.queue.lock().takes > takes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_with_another_id_delivers_what_its_predecessor_left() {
    let bench = Bench::new().await;
    bench.queue.door(Door::Shut);
    bench.queue.add(["a".to_owned(), "b".to_owned()]);
    let (mut worker, _) = bench.worker();
    until("both results on disk", || bench.spooled().len() == 2).await;
    // Its server answers once the spool is open.
    let (_living, http) = bench.worker_called("worker-2");
    let second = eventually("the second's health", || async { health(&http).await }).await;
    assert_eq!(second["worker"]["outbox"]["spool"]["recovered"], 0, "{second}");
    assert_eq!(bench.spooled().len(), 2, "a living worker's results are its own");
    worker.signal(Signal::KILL);
    worker.wait(Duration::from_secs(10));

    bench.queue.door(Door::Open);
    let (replacement, http) = bench.worker_called("worker-3");
    until("both results", || bench.queue.lock().results.len() == 2).await;
    let posted: Vec<String> = bench.queue.lock().posted_by.values().cloned().collect();
    assert_eq!(posted, ["worker-1", "worker-1"], "as the worker that ran the jobs would have posted them");
    until("nothing to be left of it", || !bench.own().exists()).await;
    assert!(replacement.log().contains("adopted"), "{}", replacement.log());
    let health = eventually("its health", || async { health(&http).await }).await;
    assert_eq!(health["worker"]["outbox"]["spool"]["recovered"], 2, "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_worker_whose_folder_is_adopted_goes_on() {
    let bench = Bench::new().await;
    let (_worker, http) = bench.worker();
    eventually("the worker to run", || async { health(&http).await }).await;
    // As by a worker that cannot see its lock.
    std::fs::remove_dir_all(bench.own()).unwrap();
    bench.queue.door(Door::Shut);
    bench.queue.add(["a".to_owned()]);
    until("the result on disk", || bench.spooled() == ["a"]).await;
    std::fs::remove_dir_all(bench.own()).unwrap();
    bench.queue.door(Door::Unknown);
    eventually("the result to be refused", || async {
        let spool = health(&http).await?["worker"]["outbox"]["spool"].clone();
        (spool["deadLetters"] == 1 && spool["state"] == "ok").then_some(())
    })
    .await;
    assert!(bench.own().join("lock").exists());
    bench.queue.door(Door::Open);
    bench.queue.add(["b".to_owned()]);
    until("the next job", || bench.queue.lock().results.contains_key("b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_disk_stops_the_polling_and_not_the_delivery() {
    let bench = Bench::new().await;
    let (_worker, http) = bench.worker();
    let results = bench.own().join("results");
    eventually("the worker to run", || async { health(&http).await }).await;
    std::fs::rename(&results, bench.own().join("elsewhere")).unwrap();
    // A missing folder would be made again.
    std::fs::write(&results, "").unwrap();
    bench.queue.door(Door::Shut);
    bench.queue.add(["a".to_owned()]);
    let spool = eventually("the worker to be degraded", || async {
        let spool = health(&http).await?["worker"]["outbox"]["spool"].clone();
        (spool["state"] == "degraded").then_some(spool)
    })
    .await;
    assert!(spool["reason"].as_str().unwrap().contains("--spool-dir"), "{spool}");
    eventually("the reason to be told", || async {
        let ready = reqwest::get(format!("{http}/ready")).await.ok()?.text().await.ok()?;
        ready.contains("cannot be kept safe").then_some(())
    })
    .await;
    bench.queue.add(["b".to_owned()]);
    bench.queue.door(Door::Open);
    until("the result in memory", || bench.queue.lock().results.contains_key("a")).await;
    assert_eq!(bench.queue.lock().jobs.len(), 1, "no job is taken while results cannot be kept safe");

    std::fs::remove_file(&results).unwrap();
    std::fs::rename(bench.own().join("elsewhere"), &results).unwrap();
    until("the next job", || bench.queue.lock().results.contains_key("b")).await;
    let spool = health(&http).await.unwrap()["worker"]["outbox"]["spool"].clone();
    assert_eq!(spool["state"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_can_be_listed_shown_sent_again_and_thrown_away() {
    let bench = Bench::new().await;
    assert_eq!(bench.dead_letters(&["list"]).1.lines().count(), 1, "only the heading");
    bench.queue.door(Door::Unknown);
    bench.queue.add(["a".to_owned(), "b".to_owned()]);
    let (_worker, http) = bench.worker();
    eventually("both to be refused", || async {
        let health = health(&http).await?;
        (health["worker"]["outbox"]["spool"]["deadLetters"] == 2).then_some(())
    })
    .await;
    let (listed, text) = bench.dead_letters(&["list"]);
    assert!(listed && text.lines().count() == 3 && text.contains("404"), "{text}");
    let (shown, text) = bench.dead_letters(&["show", "a"]);
    assert!(shown && text.contains(r#"{"output":{"text":"a"}}"#), "{text}");
    let (sent, text) = bench.dead_letters(&["resend", "a"]);
    assert!(!sent && text.contains("404") && text.contains("it is kept"), "{text}");

    bench.queue.door(Door::Open);
    assert!(bench.dead_letters(&["resend", "a"]).0);
    assert_eq!(bench.queue.lock().results["a"].len(), 1);
    assert!(bench.dead_letters(&["discard", "--all"]).0);
    assert_eq!(bench.dead_letters(&["list"]).1.lines().count(), 1);
    let (shown, text) = bench.dead_letters(&["show", "a"]);
    assert!(!shown && text.contains("there is no dead letter `a`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_never_share_a_spool() {
    let bench = Bench::new().await;
    let (_first, http) = bench.worker();
    eventually("the first to run", || async { health(&http).await }).await;
    let (mut second, _) = bench.worker();
    assert_eq!(second.wait(Duration::from_secs(30)).code(), Some(64));
    assert!(second.log().contains("RUNPOD_POD_ID"), "{}", second.log());
}
