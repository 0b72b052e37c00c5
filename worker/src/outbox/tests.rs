//! With a queue in memory and the clock stopped.

mod refused;
mod spooled;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use runpod_handler_protocol::{ErrorKind, ErrorReport};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::queue::{PostReply, RequestError, ResultBody};
use runpod_worker_core::FinalResult;

/// One attempt as the queue saw it.
#[derive(Clone, Debug)]
struct Attempt {
    what: &'static str,
    job: String,
    /// Set when it was posted as another worker would.
    worker: Option<String>,
    body: String,
    began: Instant,
    ended: Instant,
    accepted: bool,
}

/// Answers with scripted replies after scripted times; accepts at once when the script is over.
#[derive(Default)]
struct MemorySink {
    script: Mutex<VecDeque<(Duration, PostReply)>>,
    log: Mutex<Vec<Attempt>>,
    in_flight: Mutex<(usize, usize)>,
}

impl MemorySink {
    fn new(script: impl IntoIterator<Item = (u64, PostReply)>) -> Arc<Self> {
        let script = script.into_iter().map(|(millis, reply)| (Duration::from_millis(millis), reply)).collect();
        Arc::new(Self { script: Mutex::new(script), ..Self::default() })
    }

    async fn attempt(&self, what: &'static str, worker: Option<&str>, job: &JobId, body: Bytes) -> PostReply {
        let began = Instant::now();
        {
            let mut in_flight = self.in_flight.lock();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        let next = self.script.lock().pop_front();
        let (wait, reply) = next.unwrap_or((Duration::ZERO, code(200)));
        sleep(wait).await;
        self.in_flight.lock().0 -= 1;
        let body = String::from_utf8(body.to_vec()).unwrap();
        let accepted = reply == code(200);
        let (job, worker) = (job.to_string(), worker.map(str::to_owned));
        let attempt = Attempt { what, job, worker, body, began, ended: Instant::now(), accepted };
        self.log.lock().push(attempt);
        reply
    }

    fn log(&self) -> Vec<Attempt> {
        self.log.lock().clone()
    }

    /// `what body` for each attempt.
    fn posted(&self) -> Vec<String> {
        self.log().iter().map(|attempt| format!("{} {}", attempt.what, attempt.body)).collect()
    }
}

impl ResultSink for MemorySink {
    async fn post_final(&self, job: &JobId, body: ResultBody, streamed: bool) -> PostReply {
        self.attempt(if streamed { "streamed" } else { "final" }, None, job, body.whole()).await
    }

    async fn post_final_of(&self, worker: &str, job: &JobId, body: ResultBody, streamed: bool) -> PostReply {
        self.attempt(if streamed { "streamed" } else { "final" }, Some(worker), job, body.whole()).await
    }

    async fn post_chunk(&self, job: &JobId, body: Bytes) -> PostReply {
        self.attempt("chunk", None, job, body).await
    }

    async fn post_progress(&self, job: &JobId, body: Bytes) -> PostReply {
        self.attempt("progress", None, job, body).await
    }
}

struct Rig {
    sink: Arc<MemorySink>,
    outbox: Outbox,
    events: mpsc::Receiver<Event>,
}

impl Rig {
    fn new(sink: Arc<MemorySink>) -> Self {
        Self::with_limits(sink, OutboxLimits::default())
    }

    fn with_limits(sink: Arc<MemorySink>, limits: OutboxLimits) -> Self {
        // The smallest channel: what would block the dispatcher shows.
        let (sender, events) = mpsc::channel(1);
        let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
        let outbox = spawn(Arc::clone(&sink), identity, limits, sender);
        Self { sink, outbox, events }
    }

    fn send(&self, job: &str, item: OutboxItem) {
        self.outbox.send(JobId::from(job), item);
    }

    async fn event(&mut self) -> DeliveryEvent {
        let limit = Duration::from_secs(10 * 24 * 3600);
        match timeout(limit, self.events.recv()).await.expect("an event in time") {
            Some(Event::Delivery(event)) => event,
            other => panic!("expected an event of the outbox, got {other:?}"),
        }
    }

    /// Runs until the final result of one job is decided; returns whether it was accepted, and the chunk events before it.
    async fn until_final(&mut self) -> (bool, Vec<u64>) {
        let mut chunks = Vec::new();
        loop {
            match self.event().await {
                DeliveryEvent::Chunk { seq, .. } => chunks.push(seq),
                DeliveryEvent::Final { accepted, .. } => return (accepted, chunks),
                DeliveryEvent::Full(_) | DeliveryEvent::Behind(_) | DeliveryEvent::Undelivered(_) => {}
            }
        }
    }
}

fn code(code: u16) -> PostReply {
    PostReply::Status { code, retry_after: None }
}

fn unreachable() -> PostReply {
    PostReply::Failed(RequestError::Unreachable("connection refused".into()))
}

fn chunk(seq: u64) -> OutboxItem {
    OutboxItem::Chunk { attempt: 1, seq, payload: seq.to_string().into() }
}

fn progress(value: &'static str) -> OutboxItem {
    OutboxItem::Progress(value.into())
}

fn done(output: &str) -> OutboxItem {
    OutboxItem::Final(FinalResult {
        result: Ok(output.to_owned().into()),
        streamed: false,
        stop_pod: false,
        cost: None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_emptied_in_order() {
    let mut rig = Rig::new(MemorySink::new([]));
    for seq in 1..=3 {
        rig.send("j", chunk(seq));
    }
    let last = FinalResult { result: Ok("[]".into()), streamed: true, stop_pod: true, cost: None };
    rig.send("j", OutboxItem::Final(last));
    assert_eq!(rig.until_final().await, (true, vec![1, 2, 3]));
    assert_eq!(
        rig.sink.posted(),
        [
            r#"chunk {"output":1}"#,
            r#"chunk {"output":2}"#,
            r#"chunk {"output":3}"#,
            r#"streamed {"output":[],"stopPod":true}"#,
        ]
    );
    assert_eq!(rig.outbox.stats(), OutboxStats::default());
}

#[tokio::test(start_paused = true)]
async fn the_newest_progress_wins_and_none_follows_the_result() {
    // The first post takes a second; what comes meanwhile is replaced.
    let mut rig = Rig::new(MemorySink::new([(1000, code(200))]));
    rig.send("j", progress("1"));
    sleep(Duration::from_millis(10)).await;
    for value in ["2", "3", "4"] {
        rig.send("j", progress(value));
    }
    sleep(Duration::from_secs(5)).await;
    rig.send("j", progress("5"));
    rig.send("j", done("6"));
    rig.send("j", progress("7"));
    assert!(rig.until_final().await.0);
    assert_eq!(
        rig.sink.posted(),
        [
            r#"progress {"status":"IN_PROGRESS","output":1}"#,
            r#"progress {"status":"IN_PROGRESS","output":4}"#,
            r#"final {"output":6}"#,
        ]
    );
    assert_eq!(rig.outbox.stats().late, 1);
}

#[tokio::test(start_paused = true)]
async fn a_result_waits_for_the_progress_in_flight() {
    let mut rig = Rig::new(MemorySink::new([(3000, code(500))]));
    rig.send("j", progress("1"));
    sleep(Duration::from_millis(10)).await;
    rig.send("j", done("2"));
    assert!(rig.until_final().await.0);
    let log = rig.sink.log();
    assert!(log.len() == 2 && log[1].began >= log[0].ended, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_chunk_does_not_hold_back_the_rest() {
    let mut rig = Rig::new(MemorySink::new([(0, code(400)), (0, code(404)), (0, PostReply::NoRoute)]));
    for seq in 1..=4 {
        rig.send("j", chunk(seq));
    }
    rig.send("j", done("1"));
    assert_eq!(rig.until_final().await, (true, vec![1, 2, 3, 4]));
    assert_eq!(rig.sink.log().len(), 5, "none of them was tried again");
    assert_eq!(rig.outbox.stats().lost_chunks, 3);
}

#[tokio::test(start_paused = true)]
async fn chunks_that_keep_failing_share_one_time_limit() {
    let limits = OutboxLimits::default();
    let mut rig = Rig::with_limits(MemorySink::new(std::iter::repeat_n((0, code(500)), 200)), limits);
    let began = Instant::now();
    for seq in 1..=20 {
        rig.send("j", chunk(seq));
    }
    for expected in 1..=20 {
        assert!(matches!(rig.event().await, DeliveryEvent::Chunk { seq, .. } if seq == expected));
    }
    assert!(began.elapsed() <= limits.chunk_age, "{:?}", began.elapsed());
    assert_eq!(rig.outbox.stats().lost_chunks, 20);
}

#[tokio::test(start_paused = true)]
async fn lanes_do_not_wait_for_each_other() {
    let mut rig = Rig::new(MemorySink::new([(0, code(500)), (0, code(200))]));
    rig.send("slow", done("1"));
    sleep(Duration::from_millis(1)).await;
    rig.send("quick", done("2"));
    let DeliveryEvent::Final { job, .. } = rig.event().await else { panic!("expected a final") };
    assert_eq!(job.as_str(), "quick");
    assert!(rig.until_final().await.0);
}

#[tokio::test(start_paused = true)]
async fn posts_in_flight_are_bounded() {
    let limits = OutboxLimits { max_posts: 3, ..OutboxLimits::default() };
    let mut rig = Rig::with_limits(MemorySink::new(std::iter::repeat_n((100, code(200)), 20)), limits);
    for job in 0..20 {
        rig.send(&job.to_string(), done("1"));
    }
    for _ in 0..20 {
        assert!(rig.until_final().await.0);
    }
    assert_eq!(rig.sink.in_flight.lock().1, 3);
}

#[tokio::test(start_paused = true)]
async fn the_outbox_is_full_over_the_limit_and_goes_at_half_of_it() {
    let limits = OutboxLimits { max_bytes: 10_000, max_posts: 1, ..OutboxLimits::default() };
    let mut rig = Rig::with_limits(MemorySink::new(std::iter::repeat_n((1000, code(200)), 4)), limits);
    for job in ["a", "b", "c", "d"] {
        rig.send(job, done(&"x".repeat(3000)));
    }
    let mut events = Vec::new();
    for _ in 0..8 {
        events.push(match rig.event().await {
            DeliveryEvent::Full(full) => full.to_string(),
            DeliveryEvent::Behind(behind) => format!("behind {behind}"),
            DeliveryEvent::Final { .. } => "final".to_owned(),
            DeliveryEvent::Chunk { .. } | DeliveryEvent::Undelivered(_) => "other".to_owned(),
        });
    }
    let at = |word: &str| events.iter().position(|event| event == word).unwrap();
    assert!(at("true") < at("false"), "{events:?}");
    // 9384 bytes after the first final and 6256 after the second are still more than half; the third leaves 3128.
    let finals_before = events[..at("false")].iter().filter(|event| *event == "final").count();
    assert!((2..=3).contains(&finals_before), "{events:?}");
    assert_eq!(rig.outbox.stats().held_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn delivery_is_behind_while_many_results_wait_for_their_turn() {
    let limits = OutboxLimits { max_posts: 2, ..OutboxLimits::default() };
    let mut rig = Rig::with_limits(MemorySink::new(std::iter::repeat_n((100, code(200)), 7)), limits);
    for job in 0..7 {
        rig.send(&job.to_string(), done("1"));
    }
    // Two are posted and five wait, more than four. After the first two posts three wait, after the next two one does.
    let mut finals = 0;
    let mut changes = Vec::new();
    while finals < 7 {
        match rig.event().await {
            DeliveryEvent::Behind(behind) => changes.push((behind, finals)),
            DeliveryEvent::Final { .. } => finals += 1,
            other => panic!("{other:?}"),
        }
    }
    let [(true, 0), (false, posted)] = changes[..] else { panic!("{changes:?}") };
    assert!((2..=5).contains(&posted), "{changes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_accepts_nothing_does_not_keep_the_delivery_behind() {
    // Results on disk are safe: the limit on bytes decides.
    let limits = OutboxLimits { max_posts: 1, ..OutboxLimits::default() };
    let mut rig = Rig::with_limits(MemorySink::new(std::iter::repeat_n((60_000, code(200)), 4)), limits);
    for job in 0..4 {
        rig.send(&job.to_string(), done("1"));
    }
    let began = Instant::now();
    for expected in [true, false] {
        assert!(matches!(rig.event().await, DeliveryEvent::Behind(behind) if behind == expected));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_discard_nothing_is_posted_and_the_job_may_come_again() {
    let mut rig = Rig::new(MemorySink::new([(0, code(500))]));
    rig.send("j", chunk(1));
    rig.send("j", done("1"));
    sleep(Duration::from_millis(100)).await;
    rig.send("j", OutboxItem::Discard);
    rig.send("j", done("2"));
    assert_eq!(rig.until_final().await, (true, vec![]));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.sink.posted(), [r#"chunk {"output":1}"#, r#"final {"output":2}"#]);
    assert_eq!((rig.outbox.stats().lanes, rig.outbox.stats().held_bytes), (0, 0));
    rig.send("unknown", OutboxItem::Discard);
    assert_eq!(rig.outbox.stats().lanes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_event_channel_never_blocks_the_dispatcher() {
    let mut rig = Rig::new(MemorySink::new([]));
    // The channel holds one event and nobody reads; `send` must come back all the same.
    for seq in 1..=50 {
        rig.send("j", chunk(seq));
        tokio::task::yield_now().await;
    }
    rig.send(
        "j",
        OutboxItem::Final(FinalResult {
            result: Err(ErrorReport { kind: ErrorKind::Oom, message: "m".into(), traceback: String::new() }),
            streamed: true,
            stop_pod: false,
            cost: None,
        }),
    );
    assert_eq!(rig.until_final().await, (true, (1..=50).collect()));
}

/// The number in a chunk's body.
fn number(body: &str) -> u64 {
    body.trim_start_matches(r#"{"output":"#).trim_end_matches('}').parse().unwrap()
}

/// What a handler may do to one job, before its final result.
#[derive(Clone, Debug)]
enum Move {
    Chunk,
    Progress,
    Wait(u64),
}

fn moves() -> impl Strategy<Value = Vec<(usize, Move)>> {
    let one = prop_oneof![Just(Move::Chunk), Just(Move::Progress), (0u64..3000).prop_map(Move::Wait)];
    prop::collection::vec((0usize..3, one), 0..40)
}

/// Answers of a queue that has bad days; after them it accepts everything.
fn script() -> impl Strategy<Value = Vec<(u64, PostReply)>> {
    let reply = prop_oneof![
        5 => Just(code(200)),
        1 => Just(code(500)),
        1 => Just(code(429)),
        1 => Just(code(400)),
        1 => Just(code(404)),
        1 => Just(unreachable()),
    ];
    prop::collection::vec((0u64..400, reply), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn lanes_keep_their_order_whatever_happens(moves in moves(), script in script()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let mut rig = Rig::new(MemorySink::new(script));
            let mut sent = [0u64; 3];
            let mut seen: [Vec<u64>; 3] = Default::default();
            let mut finals = [0; 3];
            let index = |job: &str| job.parse::<usize>().unwrap();
            let mut note = |event: Event| match event {
                Event::Delivery(DeliveryEvent::Chunk { job, seq, .. }) => {
                    assert_eq!(finals[index(job.as_str())], 0, "a chunk event after the final");
                    seen[index(job.as_str())].push(seq);
                    0
                }
                Event::Delivery(DeliveryEvent::Final { job, .. }) => {
                    finals[index(job.as_str())] += 1;
                    1
                }
                other => panic!("unexpected {other:?}"),
            };
            for (job, step) in moves {
                match step {
                    Move::Chunk => {
                        sent[job] += 1;
                        rig.send(&job.to_string(), chunk(sent[job]));
                    }
                    Move::Progress => rig.send(&job.to_string(), progress("0")),
                    Move::Wait(millis) => sleep(Duration::from_millis(millis)).await,
                }
                while let Ok(event) = rig.events.try_recv() {
                    note(event);
                }
            }
            for job in ["0", "1", "2"] {
                rig.send(job, done("1"));
            }
            let mut decided = 0;
            while decided < 3 {
                decided += note(timeout(Duration::from_secs(36_000), rig.events.recv()).await.unwrap().unwrap());
            }
            assert_eq!(finals, [1, 1, 1]);
            for job in 0..3 {
                assert_eq!(seen[job], (1..=sent[job]).collect::<Vec<_>>(), "each chunk is answered once, in order");
                let name = job.to_string();
                let log: Vec<_> = rig.sink.log().into_iter().filter(|attempt| attempt.job == name).collect();
                assert!(log.windows(2).all(|pair| pair[1].began >= pair[0].ended), "one post at a time: {log:?}");
                assert!(log.windows(2).all(|pair| pair[0].what != "final" || pair[1].what == "final"), "{log:?}");
                let accepted: Vec<_> = log.iter().filter(|a| a.accepted && a.what == "chunk").map(|a| &a.body).collect();
                assert!(accepted.windows(2).all(|pair| number(pair[0]) < number(pair[1])), "{accepted:?}");
            }
            assert_eq!((rig.outbox.stats().lanes, rig.outbox.stats().held_bytes), (0, 0));
        });
    }
}
