//! With a spool on a disk in memory.

use std::path::Path;

use super::super::spool::faulty::FaultyFilesystem;
use super::*;

const OWN: &str = "/spool/w1";

struct Spooled {
    rig: Rig,
    files: FaultyFilesystem,
}

impl Spooled {
    fn new(script: impl IntoIterator<Item = (u64, PostReply)>, always: bool) -> Self {
        Self::on(FaultyFilesystem::default(), script, always)
    }

    /// A worker that finds what is on this disk and delivers it.
    fn on(files: FaultyFilesystem, script: impl IntoIterator<Item = (u64, PostReply)>, always: bool) -> Self {
        let sink = MemorySink::new(script);
        let (sender, events) = mpsc::channel(1);
        let identity = Identity { worker_id: "w1".into(), hostname: "h1".into(), endpoint_id: None };
        let limits = RetentionLimits::default();
        let (spool, undelivered) = Spool::start(Arc::new(files.clone()), Path::new(OWN), "w1", limits).unwrap();
        let outbox =
            spawn_with_spool(Arc::clone(&sink), identity, OutboxLimits::default(), sender, spool, always, &undelivered);
        outbox.resume(undelivered);
        Self { rig: Rig { sink, outbox, events }, files }
    }

    fn results(&self) -> usize {
        self.files.list(&Path::new(OWN).join("results")).unwrap().len()
    }

    fn stats(&self) -> SpoolStats {
        self.rig.outbox.stats().spool.unwrap()
    }

    fn dead(&self) -> DeadLetters {
        DeadLetters::at(Arc::new(self.files.clone()), Path::new(OWN), "w1")
    }

    /// Waits until the disk thread has come so far.
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !what(self) {
            assert!(begin.elapsed() < Duration::from_secs(60), "in vain; {:?}", self.stats());
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn full(&mut self) -> bool {
        loop {
            if let DeliveryEvent::Full(full) = self.rig.event().await {
                return full;
            }
        }
    }
}

fn failures(count: usize) -> impl Iterator<Item = (u64, PostReply)> {
    std::iter::repeat_n((0, unreachable()), count)
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_accepted_at_once_never_touches_the_disk() {
    let mut it = Spooled::new([(200, code(200))], false);
    it.files.set_broken(true);
    it.rig.send("j", done("1"));
    assert!(it.rig.until_final().await.0);
    assert_eq!(it.stats(), SpoolStats::default());
}

#[tokio::test(start_paused = true)]
async fn a_result_is_on_disk_from_the_first_failure_until_it_is_accepted() {
    let mut it = Spooled::new(failures(5), false);
    it.rig.send("j", done("1"));
    it.until(|it| it.results() == 1 && it.stats().results == 1).await;
    assert!(it.rig.until_final().await.0);
    assert_eq!((it.results(), it.stats()), (0, SpoolStats::default()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_puts_the_result_on_disk_meanwhile() {
    let mut it = Spooled::new([(5000, code(200))], false);
    it.rig.send("j", done("1"));
    sleep(Duration::from_millis(240)).await;
    assert_eq!(it.results(), 0);
    it.until(|it| it.stats().results == 1).await;
    assert!(it.rig.until_final().await.0);
    assert_eq!((it.results(), it.rig.sink.log().len()), (0, 1));
}

/// Answers after this many milliseconds, always.
fn answers_after(millis: u64) -> impl Iterator<Item = (u64, PostReply)> {
    std::iter::repeat_n((millis, code(200)), 1000)
}

#[tokio::test(start_paused = true)]
async fn results_that_wait_in_line_behind_accepted_ones_stay_off_the_disk() {
    let posts = OutboxLimits::default().max_posts;
    let mut it = Spooled::new(answers_after(200), false);
    // Five turns of 200 ms.
    let jobs = 5 * posts;
    for job in 0..jobs {
        it.rig.send(&job.to_string(), done("1"));
    }
    for _ in 0..jobs {
        assert!(it.rig.until_final().await.0);
    }
    assert_eq!((it.rig.outbox.stats().overdue, it.stats()), (0, SpoolStats::default()));
}

#[tokio::test(start_paused = true)]
async fn results_in_line_are_on_disk_when_nothing_is_accepted_or_the_line_is_long() {
    let posts = OutboxLimits::default().max_posts;
    let it = Spooled::new(answers_after(60_000), false);
    for job in 0..posts + 3 {
        it.rig.send(&job.to_string(), done("1"));
    }
    it.until(|it| it.stats().results as usize == posts + 3).await;
    assert_eq!(it.rig.outbox.stats().overdue as usize, posts + 3, "each is counted once");

    let mut it = Spooled::new(answers_after(200), false);
    // Fifteen turns, of which the last begin after 2.8 s.
    let jobs = 15 * posts;
    for job in 0..jobs {
        it.rig.send(&job.to_string(), done("1"));
    }
    for _ in 0..jobs {
        assert!(it.rig.until_final().await.0);
    }
    let overdue = it.rig.outbox.stats().overdue as usize;
    assert!(overdue > 0 && overdue < jobs / 2, "{overdue} of {jobs}");
    assert_eq!(it.results(), 0);
}

#[tokio::test(start_paused = true)]
async fn always_means_before_it_is_posted() {
    let mut it = Spooled::new([(200, code(200))], true);
    it.rig.send("j", done("1"));
    it.until(|it| it.stats().results == 1).await;
    assert!(it.rig.sink.log().is_empty());
    assert!(it.rig.until_final().await.0);
    assert_eq!((it.results(), it.rig.outbox.stats().overdue), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_has_left_is_delivered_by_the_next_one() {
    let it = Spooled::new(failures(1000), false);
    for job in ["a", "b"] {
        it.rig.send(job, done("1"));
    }
    it.until(|it| it.stats().results == 2).await;
    let files = it.files.clone();
    drop(it);
    let mut it = Spooled::on(files, failures(3), false);
    assert_eq!((it.stats().recovered, it.rig.outbox.stats().lanes), (2, 2));
    for _ in 0..2 {
        assert!(it.rig.until_final().await.0);
    }
    let accepted: Vec<_> = it.rig.sink.log().into_iter().filter(|attempt| attempt.accepted).collect();
    assert_eq!(accepted.len(), 2);
    assert!(accepted.iter().all(|attempt| attempt.body == r#"{"output":1}"#));
    assert_eq!((it.results(), it.rig.outbox.stats().held_bytes), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_broken_disk_stops_new_jobs_and_not_the_deliveries() {
    let mut it = Spooled::new(failures(8), false);
    it.files.set_broken(true);
    it.rig.send("j", done("1"));
    assert!(it.full().await);
    let trouble = it.stats().trouble.unwrap();
    assert!(trouble.contains("the disk is gone") && trouble.contains("--spool-dir"), "{trouble}");
    it.files.set_broken(false);
    assert!(!it.full().await);
    assert_eq!(it.stats().trouble, None);
    it.until(|it| it.results() == 1).await;
    assert!(it.rig.until_final().await.0);

    it.files.set_broken(true);
    it.rig.sink.script.lock().push_back((Duration::ZERO, code(500)));
    it.rig.send("k", done("1"));
    assert!(it.full().await);
    assert!(it.rig.until_final().await.0, "delivered from memory");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_removed_is_removed_later() {
    let mut it = Spooled::new([(1000, code(200))], false);
    it.rig.send("j", done("1"));
    it.until(|it| it.stats().results == 1).await;
    it.files.set_broken(true);
    it.until(|it| it.stats().trouble.is_some()).await;
    it.files.set_broken(false);
    assert!(it.rig.until_final().await.0);
    it.until(|it| it.results() == 0 && it.stats() == SpoolStats::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_nobody_wants_is_kept_for_a_person_and_can_be_sent_again() {
    let mut it = Spooled::new([(0, code(404))], false);
    it.rig.send("j", done("1"));
    assert!(!it.rig.until_final().await.0);
    let letter = it.dead().find("j").unwrap();
    assert_eq!(letter.record.body, r#"{"output":1}"#);
    let reason = letter.reason.clone().unwrap();
    assert_eq!((reason.status, it.results(), it.stats().dead_letters), (Some(404), 0, 1));

    it.rig.sink.script.lock().push_back((Duration::ZERO, code(500)));
    let refused = it.dead().resend(&letter, &*it.rig.sink).await.unwrap_err();
    assert!(refused.to_string().contains("500") && it.dead().find("j").is_ok(), "{refused}");
    it.dead().resend(&letter, &*it.rig.sink).await.unwrap();
    assert!(it.dead().ids().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_result_is_kept_while_its_substitute_is_posted() {
    let mut it = Spooled::new([(0, code(413)), (5000, code(500))], false);
    it.rig.send("j", done("\"large\""));
    it.until(|it| it.results() == 1 && it.stats().dead_letters == 1).await;
    assert!(!it.rig.until_final().await.0);
    assert_eq!(it.results(), 0);
    assert_eq!(it.dead().find("j").unwrap().record.body, r#"{"output":"large"}"#);
    assert!(it.rig.sink.log().last().unwrap().body.contains("413"));
}

#[tokio::test(start_paused = true)]
async fn the_substitute_of_a_result_is_posted_as_its_worker_would() {
    let files = FaultyFilesystem::default();
    let limits = RetentionLimits::default();
    let (spool, _) = Spool::start(Arc::new(files.clone()), Path::new(OWN), "w1", limits).unwrap();
    let origin = Some(Origin::new("w0", "http://h/job-done/$RUNPOD_POD_ID/$ID"));
    let body = Bytes::from_static(br#"{"output":1}"#);
    let record =
        Record { job: "j".into(), streamed: false, attempt: 1, time_ms: spool::now_ms(), body: body.into(), origin };
    spool.write(&spool.new_entry(), &record).unwrap();
    let mut it = Spooled::on(files, [(0, code(413))], false);
    assert!(!it.rig.until_final().await.0);
    let workers: Vec<_> = it.rig.sink.log().into_iter().map(|attempt| attempt.worker).collect();
    assert_eq!(workers, [Some("w0".to_owned()), Some("w0".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_sent_again_asks_for_no_fresh_worker() {
    let mut it = Spooled::new([(0, code(404))], false);
    let result = FinalResult { result: Ok("1".into()), streamed: false, stop_pod: true, cost: None };
    it.rig.send("j", OutboxItem::Final(result));
    assert!(!it.rig.until_final().await.0);
    let letter = it.dead().find("j").unwrap();
    it.dead().resend(&letter, &*it.rig.sink).await.unwrap();
    let bodies: Vec<_> = it.rig.sink.log().into_iter().map(|attempt| attempt.body).collect();
    assert_eq!(bodies, [r#"{"output":1,"stopPod":true}"#, r#"{"output":1}"#]);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_result_leaves_the_disk() {
    let it = Spooled::new(failures(1000), false);
    it.rig.send("j", done("1"));
    it.until(|it| it.stats().results == 1).await;
    it.rig.send("j", OutboxItem::Discard);
    it.until(|it| it.results() == 0 && it.stats().results == 0).await;
}
