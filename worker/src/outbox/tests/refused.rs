//! Results that the queue refuses: how often they are tried, and when they are given up.

use std::sync::atomic::AtomicBool;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_result_is_tried_until_it_is_accepted() {
    let failures = [unreachable(), code(500), code(408), code(429), code(502), code(302), unreachable()];
    let mut rig = Rig::new(MemorySink::new(failures.into_iter().map(|reply| (10, reply))));
    rig.send("j", done("1"));
    assert!(rig.until_final().await.0);
    let log = rig.sink.log();
    assert_eq!(log.len(), 8);
    for pair in log.windows(2) {
        let pause = pair[1].began - pair[0].ended;
        assert!(pause >= Duration::from_millis(490) && pause <= PAUSE_LIMIT, "{pause:?}");
    }
    let stats = rig.outbox.stats();
    assert_eq!((stats.retries, stats.overdue, stats.dead_letters), (7, 1, 0));
}

/// Refuses the results of some jobs as long as a switch is on, and accepts all others.
struct Refusing {
    jobs: &'static [&'static str],
    is_on: AtomicBool,
    attempts: Mutex<Vec<(String, Instant)>>,
}

impl ResultSink for Refusing {
    async fn post_final(&self, job: &JobId, _: ResultBody, _: bool) -> PostReply {
        self.attempts.lock().push((job.to_string(), Instant::now()));
        let refuses = self.is_on.load(Ordering::SeqCst) && self.jobs.contains(&job.as_str());
        code(if refuses { 503 } else { 200 })
    }

    async fn post_chunk(&self, _: &JobId, _: Bytes) -> PostReply {
        PostReply::NoRoute
    }

    async fn post_progress(&self, _: &JobId, _: Bytes) -> PostReply {
        PostReply::NoRoute
    }
}

fn refusing(jobs: &'static [&'static str]) -> (Arc<Refusing>, Outbox, mpsc::Receiver<Event>) {
    let sink = Arc::new(Refusing { jobs, is_on: true.into(), attempts: Mutex::default() });
    let (sender, events) = mpsc::channel(1000);
    let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
    let outbox = spawn(Arc::clone(&sink), identity, OutboxLimits::default(), sender);
    (sink, outbox, events)
}

#[tokio::test(start_paused = true)]
async fn results_that_were_refused_are_tried_once_a_second_together_and_all_delivered_when_one_is_accepted() {
    let jobs = &["a", "b", "c", "d", "e", "f", "g", "h"];
    let (sink, outbox, _events) = refusing(jobs);
    for job in jobs {
        outbox.send(JobId::from(*job), done("1"));
    }
    let minutes = Duration::from_secs(600);
    sleep(minutes).await;
    let attempts = sink.attempts.lock().len();
    assert!((400..=608).contains(&attempts), "{attempts} attempts in {minutes:?}");
    sink.is_on.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(outbox.stats().lanes, 0, "{:?}", outbox.stats());
}

#[tokio::test(start_paused = true)]
async fn results_that_are_refused_while_others_are_accepted_wait_longer_and_longer() {
    let jobs = &["a", "b", "c", "d", "e", "f", "g", "h"];
    let (sink, outbox, _events) = refusing(jobs);
    for job in jobs {
        outbox.send(JobId::from(*job), done("1"));
    }
    // One that is accepted every three seconds, so that each of them ends a time without any.
    for job in 0..200 {
        outbox.send(JobId::from(format!("good-{job}")), done("1"));
        sleep(Duration::from_secs(3)).await;
    }
    let attempts = sink.attempts.lock().iter().filter(|(job, _)| jobs.contains(&job.as_str())).count();
    assert!((8 * 20..8 * 60).contains(&attempts), "{attempts} attempts of 8 results in 10 minutes");
}

const PAUSE_LIMIT: Duration = Duration::from_millis(30_010);

#[tokio::test(start_paused = true)]
async fn the_queue_says_when_to_try_again() {
    let later = PostReply::Status { code: 503, retry_after: Some(Duration::from_secs(77)) };
    let mut rig = Rig::new(MemorySink::new([(0, later)]));
    rig.send("j", done("1"));
    assert!(rig.until_final().await.0);
    let log = rig.sink.log();
    assert_eq!((log[1].began - log[0].ended).as_secs(), 77);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_tried_slowly_and_seen() {
    let mut rig = Rig::new(MemorySink::new([(0, code(401)), (0, code(403))]));
    rig.send("j", done("1"));
    sleep(Duration::from_secs(1)).await;
    assert!(rig.outbox.stats().unauthorized);
    assert!(rig.until_final().await.0);
    let log = rig.sink.log();
    assert!(log.windows(2).all(|pair| pair[1].began - pair[0].ended >= Duration::from_millis(14_900)), "{log:?}");
    assert!(!rig.outbox.stats().unauthorized);
}

#[tokio::test(start_paused = true)]
async fn a_refused_result_becomes_a_small_failure_once() {
    for second in [code(200), code(413), code(404)] {
        let mut rig = Rig::new(MemorySink::new([(0, code(413)), (0, second)]));
        rig.send("j", done(&"x".repeat(5000)));
        assert!(!rig.until_final().await.0);
        let log = rig.sink.log();
        assert_eq!(log.len(), 2);
        assert!(log[1].body.len() < 1000);
        let body: serde_json::Value = serde_json::from_str(&log[1].body).unwrap();
        let error: serde_json::Value = serde_json::from_str(body["error"].as_str().unwrap()).unwrap();
        assert_eq!(error["error_type"], "delivery");
        assert!(error["error_message"].as_str().unwrap().contains("413"), "{error}");
        assert_eq!(rig.outbox.stats().dead_letters, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_nobody_wants_is_given_up_at_once() {
    let mut rig = Rig::new(MemorySink::new([(0, code(404))]));
    rig.send("j", done("1"));
    assert!(!rig.until_final().await.0);
    assert_eq!(rig.sink.log().len(), 1);
    assert_eq!(rig.outbox.stats(), OutboxStats { dead_letters: 1, overdue: 1, ..OutboxStats::default() });
}

#[tokio::test(start_paused = true)]
async fn a_result_is_given_up_when_no_job_can_live_that_long() {
    let limits = OutboxLimits { max_age: Duration::from_secs(3600), ..OutboxLimits::default() };
    let failures = std::iter::repeat_n((0, unreachable()), 4000);
    let mut rig = Rig::with_limits(MemorySink::new(failures), limits);
    let began = Instant::now();
    rig.send("j", done("1"));
    assert!(!rig.until_final().await.0);
    assert!(began.elapsed() <= limits.max_age && began.elapsed() >= limits.max_age - Duration::from_secs(31));
}
