//! The queue is away for half a minute and comes back.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use end_to_end_tests::{FakeQueue, Reply, Worker, WorkerOptions, binary, until};
use serde_json::json;

const OUTAGE: Duration = Duration::from_secs(30);

/// Longest time after the queue is back until everything has arrived there again: two seconds, and slack for a loaded machine.
const BACK: Duration = Duration::from_millis(3500);

/// A queue that is away: it accepts connections, counts them and breaks them.
struct Away {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Away {
    fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !over.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok(_) => count += 1,
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            count
        });
        Self { is_over, thread }
    }

    /// Frees the port; returns how many attempts there were.
    fn end(self) -> usize {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

async fn start(flags: &[&str]) -> (FakeQueue, Worker) {
    let queue = FakeQueue::start();
    let worker = Worker::start_with(queue.worker_env(), &binary("puppet-handler"), WorkerOptions::flags(flags));
    worker.ready().await;
    (queue, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_of_half_a_minute_everything_moves_within_seconds() {
    let (mut queue, _worker) = start(&["--slots", "3"]).await;
    for id in ["first", "second"] {
        queue.job(id, &json!({"do": "sleep_ms", "ms": 2000}));
    }
    queue.sees("ping", "both are held", |ping| ping.query.contains("first") && ping.query.contains("second")).await;
    queue.take_down().await;
    let away = Away::at(queue.port());
    tokio::time::sleep(OUTAGE).await;
    let attempts = away.end();

    queue.bring_up();
    let back = Instant::now();
    queue.job("next", &json!({"do": "ok"}));
    for id in ["first", "second", "next"] {
        let result = queue.sees("job-done", id, |post| post.at > back && post.job.as_deref() == Some(id)).await;
        assert!(result.at - back < BACK, "{id} was answered {:?} after the queue was back", result.at - back);
        assert_eq!(queue.result(id).await["output"]["job"], id);
    }
    for route in ["ping", "job-stop"] {
        let seen = queue.sees(route, route, |seen| seen.at > back).await;
        assert!(seen.at - back < BACK, "{route} came {:?} after the queue was back", seen.at - back);
    }
    // Four kinds of requests: takes, stops, pings and posts.
    let most = 4 * (OUTAGE.as_secs() as usize + 5);
    assert!(attempts <= most, "{attempts} attempts in {OUTAGE:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_post_that_is_never_answered_is_repeated_after_fifteen_seconds() {
    let (queue, _worker) = start(&[]).await;
    queue.done(Reply::never());
    queue.job("unanswered", &json!({"do": "ok"}));
    until("the second attempt", || queue.seen("job-done").len() == 2).await;
    let posts = queue.seen("job-done");
    let pause = posts[1].at - posts[0].at;
    assert!((Duration::from_secs(10)..Duration::from_secs(20)).contains(&pause), "{pause:?}");
    assert_eq!(queue.result("unanswered").await["output"]["job"], "unanswered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_refuses_only_results_is_asked_at_most_once_a_second_until_it_takes_them() {
    let (queue, _worker) = start(&[]).await;
    queue.every_done(Some(Reply::status(503)));
    queue.job("refused", &json!({"do": "ok"}));
    queue.sees("job-done", "the first attempt", |_| true).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let attempts = queue.seen("job-done").len();
    assert!((2..=25).contains(&attempts), "{attempts} attempts in 20 s");
    queue.every_done(None);
    let accepts = Instant::now();
    let result = queue.sees("job-done", "the result", |post| post.at > accepts).await;
    assert!(result.at - accepts < BACK, "delivered {:?} after the queue accepts results", result.at - accepts);
    queue.result("refused").await;
}
