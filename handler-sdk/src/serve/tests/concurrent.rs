//! Handlers that run many jobs at the same time, as futures.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::*;
use crate::async_function::AsyncFunction;
use crate::serve::Concurrent;
use crate::testing::Harness;
use crate::{AsyncHandler, AsyncJob};

/// Jobs whose future was dropped before it ended.
static DROPPED: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);
/// Jobs that block do so until the test is over.
static RELEASED: AtomicBool = AtomicBool::new(false);

struct Waiting {
    warmed_up: AtomicBool,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Wait {
    Nap { ms: u64 },
    ForEver,
    CleanUp,
    CleanUpForEver,
    Block,
    Panic,
    PanicOnDrop,
    Stream { count: u32 },
    SetConcurrency { jobs: u32 },
    TempDir,
    Detached,
}

/// Remembers that it was dropped.
struct Guard(String);

impl Drop for Guard {
    fn drop(&mut self) {
        DROPPED.lock().insert(self.0.clone());
    }
}

impl AsyncHandler for Waiting {
    type Input = Wait;
    type Output = Value;
    type Chunk = u32;

    fn max_concurrency() -> u32 {
        1000
    }

    async fn load(env: &LoadEnv) -> Result<Self, HandlerError> {
        assert_eq!(env.concurrency()?.get(), 1000);
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Self { warmed_up: AtomicBool::new(false) })
    }

    async fn warm_up(&self) -> Result<(), HandlerError> {
        self.warmed_up.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn run(&self, input: Wait, job: AsyncJob<u32>) -> Result<Value, HandlerError> {
        assert!(self.warmed_up.load(Ordering::Relaxed));
        match input {
            Wait::Nap { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
            Wait::ForEver => {
                let _guard = Guard(job.id().to_owned());
                job.progress("waiting");
                std::future::pending::<()>().await;
            }
            Wait::CleanUp => {
                job.progress("waiting");
                let stopped = job.stopped().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Err(HandlerError::new(ErrorKind::Cancelled, format!("{stopped}, and cleaned up")));
            }
            Wait::CleanUpForEver => {
                let _guard = Guard(job.id().to_owned());
                job.progress("waiting");
                job.stopped().await;
                std::future::pending::<()>().await;
            }
            Wait::Block => {
                job.progress("waiting");
                while !RELEASED.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Wait::Panic => panic!("told to"),
            Wait::PanicOnDrop => {
                struct Bomb;
                impl Drop for Bomb {
                    fn drop(&mut self) {
                        panic!("a bomb");
                    }
                }
                let _bomb = Bomb;
                job.progress("waiting");
                std::future::pending::<()>().await;
            }
            Wait::Stream { count } => {
                for number in 1..=count {
                    job.emit(number).await?;
                }
            }
            Wait::SetConcurrency { jobs } => return Ok(json!(job.concurrency().set(jobs))),
            Wait::TempDir => return Ok(json!(job.temp_dir()?)),
            Wait::Detached => {
                let job = job.clone();
                tokio::spawn(async move {
                    job.stopped().await;
                    let error = job.emit(1).await.unwrap_err();
                    DROPPED.lock().insert(format!("{}: {error}", job.id()));
                });
            }
        }
        Ok(json!(job.id()))
    }
}

impl Worker {
    fn waiting(chunk_window: u32) -> Self {
        let mut this = Self::start_program::<Concurrent<Waiting>>();
        this.order_load(3, "auto", chunk_window);
        this.receive_until(|message| matches!(message, ToSupervisor::Loaded { slot: 0, .. }));
        this
    }

    /// Waits until this job has its final message.
    fn end_of(&mut self, wanted: &str) -> Result<Value, ErrorReport> {
        let (message, payload) = self.receive_until(|message| match message {
            ToSupervisor::Done { job, .. } | ToSupervisor::Failed { job, .. } => job == wanted,
            _ => false,
        });
        match message {
            ToSupervisor::Done { .. } => Ok(serde_json::from_slice(&payload).unwrap()),
            _ => Err(serde_json::from_slice(&payload).unwrap()),
        }
    }

    /// Runs a job until it waits.
    fn run_until_it_waits(&mut self, name: &str, what: &str) {
        self.run(name, &json!({ "do": what }));
        self.receive_until(|message| matches!(message, ToSupervisor::Progress { job, .. } if job == name));
    }
}

fn eventually_dropped(text: &str) {
    for _ in 0..1000 {
        if DROPPED.lock().contains(text) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{text} is not among {:?}", DROPPED.lock());
}

#[test]
fn a_thousand_jobs_run_at_once_and_each_gets_its_own_result() {
    let mut worker = Worker::waiting(4);
    assert_eq!((worker.manifest.max_concurrency, worker.manifest.slots(3)), (Some(1000), Ok(1000)));
    let begun = std::time::Instant::now();
    for slot in 0..1000 {
        let job = format!("job-{slot}");
        worker.run_on(slot, &job, DEADLINE_MS, &json!({"id": job, "input": {"do": "nap", "ms": 300}}));
    }
    let mut ends = BTreeSet::new();
    for _ in 0..1000 {
        let (message, output) = worker.receive_until(is_final);
        let ToSupervisor::Done { job, .. } = message else { panic!("unexpected {message:?}") };
        assert_eq!(output, format!("\"{job}\""));
        assert!(ends.insert(job));
    }
    assert!(begun.elapsed() < Duration::from_secs(100), "one after another they would take 300 s");
    assert_eq!(worker.shut_down(), 0);
}

#[test]
fn cancellation_drops_the_future() {
    let mut worker = Worker::waiting(4);
    worker.run_until_it_waits("dropped", "for_ever");
    worker.cancel("dropped", 1);
    let report = worker.end_of("dropped").unwrap_err();
    assert_eq!((report.kind, report.message.as_str()), (ErrorKind::Cancelled, "the job was stopped: it was cancelled"));
    assert!(DROPPED.lock().contains("dropped"), "before the result is sent");
}

#[test]
fn a_deadline_drops_the_future_without_a_message_of_the_worker() {
    let mut worker = Worker::waiting(4);
    worker.run_on(0, "late", 50, &json!({"id": "late", "input": {"do": "for_ever"}}));
    assert_eq!(worker.end_of("late").unwrap_err().kind, ErrorKind::Timeout);
    assert!(DROPPED.lock().contains("late"));
}

#[test]
fn a_job_that_waits_for_its_stop_ends_by_itself_but_not_for_ever() {
    let mut worker = Worker::waiting(4);
    for (job, what) in [("clean", "clean_up"), ("deaf", "clean_up_for_ever")] {
        worker.run_until_it_waits(job, what);
    }
    // The progress comes a moment before the wait.
    worker.run("nap", &json!({"do": "nap", "ms": 100}));
    worker.end_of("nap").unwrap();
    worker.cancel("deaf", 1);
    worker.cancel("clean", 1);
    let report = worker.end_of("clean").unwrap_err();
    assert_eq!(report.message, "the job was stopped: it was cancelled, and cleaned up");
    assert_eq!(worker.end_of("deaf").unwrap_err().kind, ErrorKind::Cancelled);
    assert!(DROPPED.lock().contains("deaf"));
}

#[test]
fn a_cancel_right_behind_the_job_and_one_before_it_has_begun_are_not_lost() {
    let mut worker = Worker::waiting(4);
    for job in ["x", "y", "z"] {
        worker.run(job, &json!({"do": "for_ever"}));
        worker.cancel(job, 1);
        assert_eq!(worker.end_of(job).unwrap_err().kind, ErrorKind::Cancelled);
    }
}

#[test]
fn a_panic_fails_only_its_job_wherever_it_happens() {
    let mut worker = Worker::waiting(4);
    worker.run_until_it_waits("neighbour", "clean_up");
    worker.run("panics", &json!({"do": "panic"}));
    let report = worker.end_of("panics").unwrap_err();
    assert_eq!(report.kind, ErrorKind::InferenceError);
    assert!(report.message.starts_with("the handler panicked at ") && report.message.ends_with(": told to"));
    assert!(report.traceback.contains("serve::tests"), "{}", report.traceback);
    worker.run_until_it_waits("bomb", "panic_on_drop");
    worker.cancel("bomb", 1);
    assert_eq!(worker.end_of("bomb").unwrap_err().kind, ErrorKind::Cancelled);
    worker.cancel("neighbour", 1);
    assert!(worker.end_of("neighbour").unwrap_err().message.ends_with("cleaned up"));
}

#[test]
fn chunks_wait_for_the_window_without_a_thread() {
    let mut worker = Worker::waiting(2);
    for job in ["a", "b"] {
        worker.run(job, &json!({"do": "stream", "count": 5}));
    }
    let (mut sent, mut ends) = (BTreeMap::<String, u64>::new(), 0);
    while ends < 2 {
        match worker.receive() {
            (ToSupervisor::Chunk { job, seq, .. }, item) => {
                let last = sent.entry(job.clone()).or_default();
                assert_eq!((seq, item), (*last + 1, Bytes::from(seq.to_string())));
                *last = seq;
                // Both windows are full before the first acknowledgement.
                if seq >= 2 {
                    worker.send(&ToHandler::ChunkAck { job, attempt: 1, seq }, b"");
                }
            }
            (ToSupervisor::Done { .. }, _) => ends += 1,
            _ => {}
        }
    }
    assert_eq!(sent, [("a".to_owned(), 5), ("b".to_owned(), 5)].into());
    worker.run("full", &json!({"do": "stream", "count": 5}));
    worker.receive_until(|message| matches!(message, ToSupervisor::Chunk { seq: 2, .. }));
    worker.cancel("full", 1);
    assert_eq!(worker.end_of("full").unwrap_err().kind, ErrorKind::Cancelled);
}

#[test]
fn the_handler_says_how_many_jobs_it_runs_at_once() {
    let mut worker = Worker::waiting(4);
    for (asked, set) in [(5, 5), (2000, 2000), (0, 1), (u32::MAX, 8192)] {
        worker.run("a", &json!({"do": "set_concurrency", "jobs": asked}));
        let (message, _) = worker.receive_until(|message| matches!(message, ToSupervisor::Concurrency { .. }));
        assert_eq!(message, ToSupervisor::Concurrency { jobs: set });
        assert_eq!(worker.end_of("a"), Ok(json!(set)));
    }
}

#[test]
fn a_bad_input_fails_with_its_path_and_a_temporary_directory_is_removed() {
    let mut worker = Worker::waiting(4);
    worker.run("a", &json!({"do": "nap", "ms": "long"}));
    let report = worker.end_of("a").unwrap_err();
    assert_eq!(report.kind, ErrorKind::Validation);
    worker.run("b", &json!({"do": "temp_dir"}));
    let folder: PathBuf = serde_json::from_value(worker.end_of("b").unwrap()).unwrap();
    assert!(folder.is_absolute() && !folder.exists(), "{}", folder.display());
}

#[test]
fn a_task_that_outlives_its_job_is_told_and_cannot_emit() {
    let mut worker = Worker::waiting(4);
    worker.run("detached", &json!({"do": "detached"}));
    worker.end_of("detached").unwrap();
    eventually_dropped("detached: the job was stopped: it was cancelled");
}

#[test]
fn jobs_that_block_their_threads_fail_the_others_go_on_and_without_threads_the_process_is_replaced() {
    let mut worker = Worker::waiting(4);
    worker.run_until_it_waits("blocks", "block");
    worker.run_until_it_waits("cancelled", "block");
    worker.cancel("cancelled", 1);
    worker.run("neighbour", &json!({"do": "nap", "ms": 10}));
    assert_eq!(worker.end_of("neighbour"), Ok(json!("neighbour")), "while the others block");
    let mut kinds = BTreeMap::new();
    for _ in 0..2 {
        let (message, report) = worker.receive_until(is_final);
        let ToSupervisor::Failed { job, .. } = message else { panic!("unexpected {message:?}") };
        let report: ErrorReport = serde_json::from_slice(&report).unwrap();
        assert!(report.message.contains("has blocked its thread for"), "{}", report.message);
        kinds.insert(job, report.kind);
    }
    let expected = [("blocks", ErrorKind::InferenceError), ("cancelled", ErrorKind::Cancelled)];
    assert_eq!(kinds, expected.map(|(job, kind)| (job.to_owned(), kind)).into());
    // One for each thread that the runtime can have.
    for number in 0..32 {
        worker.run(&format!("more-{number}"), &json!({"do": "block"}));
    }
    worker.receive_until(|message| *message == ToSupervisor::Blocked);
    RELEASED.store(true, Ordering::Relaxed);
}

#[test]
fn shutdown_lets_running_jobs_finish() {
    let mut worker = Worker::waiting(4);
    worker.run("a", &json!({"do": "nap", "ms": 200}));
    worker.receive_until(|message| matches!(message, ToSupervisor::Started { .. }));
    worker.send(&ToHandler::Shutdown, b"");
    assert_eq!(worker.end_of("a"), Ok(json!("a")));
    assert_eq!(worker.handler.join().unwrap(), 0);
}

#[test]
fn a_function_is_an_async_handler() {
    fn serve<F, R>(function: F) -> Harness
    where
        F: Fn(u64, AsyncJob<NoChunks>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<u64, HandlerError>> + Send + 'static,
    {
        crate::function::register(function);
        Harness::load_async::<AsyncFunction<u64, u64, HandlerError, F, R>>().unwrap()
    }
    let mut doubling = serve(|number, job| async move {
        job.progress(number);
        tokio::task::yield_now().await;
        Ok(2 * number)
    });
    let results = doubling.run_all(&(0..100).map(|number| json!(number)).collect::<Vec<_>>()).unwrap();
    for (number, result) in (0u64..).zip(results) {
        assert_eq!(result.unwrap().output, json!(2 * number));
    }
}

struct NotToday;

impl AsyncHandler for NotToday {
    type Input = u32;
    type Output = u32;
    type Chunk = NoChunks;

    async fn load(_: &LoadEnv) -> Result<Self, HandlerError> {
        Err("not today".into())
    }

    async fn run(&self, input: u32, _: AsyncJob<NoChunks>) -> Result<u32, HandlerError> {
        Ok(input)
    }
}

#[test]
fn a_failed_load_is_reported() {
    let mut worker = Worker::start_program::<Concurrent<NotToday>>();
    worker.order_load(1, "auto", 1);
    let (_, report) = worker.receive_until(|message| matches!(message, ToSupervisor::LoadFailed { slot: 0 }));
    assert_eq!(serde_json::from_slice::<ErrorReport>(&report).unwrap().message, "not today");
    assert_eq!(worker.handler.join().unwrap(), EXIT_LOAD_FAILED);
}
