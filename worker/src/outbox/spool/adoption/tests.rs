use std::sync::Barrier;

use bytes::Bytes;

use super::super::config::{SpoolConfig, SpoolError};
use super::super::record::{Origin, now_ms};
use super::*;
use crate::outbox::dead_letters::DeadLetters;

const QUEUE: &str = "http://h/v2/e/job-done/$RUNPOD_POD_ID/$ID?gpu=A";

fn config(root: &Path, worker: &str, queue: &str) -> SpoolConfig {
    let origin = Origin::new(worker, queue);
    SpoolConfig { folder: Some(root.to_owned()), required: true, always: false, owner: worker.to_owned(), origin }
}

/// As much time as a slow disk may need.
const PATIENT: AdoptionLimits = AdoptionLimits { time: Duration::from_secs(600), results: 1000, bytes: u64::MAX };

fn open(root: &Path, worker: &str) -> (Spool, Undelivered) {
    open_within(root, worker, PATIENT)
}

fn open_within(root: &Path, worker: &str, limits: AdoptionLimits) -> (Spool, Undelivered) {
    Spool::open_within(&config(root, worker, QUEUE), limits).unwrap().unwrap()
}

fn record(job: &str) -> Record {
    let body = Bytes::from(format!("{{\"output\":\"{job}\"}}"));
    Record { job: job.into(), streamed: false, attempt: 1, time_ms: now_ms(), body: body.into(), origin: None }
}

/// A worker that ends without having delivered the results of these jobs.
fn leave(root: &Path, worker: &str, queue: &str, jobs: &[&str]) -> PathBuf {
    let (spool, _) = Spool::open_within(&config(root, worker, queue), PATIENT).unwrap().unwrap();
    jobs.iter().for_each(|job| spool.write(&spool.new_entry(), &record(job)).unwrap());
    root.join(worker)
}

/// `job of worker` for each result.
fn found(undelivered: &Undelivered) -> Vec<String> {
    let name = |record: &Record| {
        let worker = record.origin.as_ref().map(|origin| origin.worker.as_str()).unwrap_or_default();
        format!("{} of {worker}", record.job)
    };
    let mut found: Vec<_> = undelivered.results.iter().map(|(_, record)| name(record)).collect();
    found.sort();
    found
}

#[test]
fn a_replacement_adopts_what_its_predecessor_left_and_keeps_it_until_it_is_delivered() {
    let root = tempfile::tempdir().unwrap();
    let gone = leave(root.path(), "a", QUEUE, &["1", "2"]);
    fs::write(gone.join("results/000000000009.tmp"), "runpod-result 1 crc32=").unwrap();
    let (spool, undelivered) = open(root.path(), "b");
    assert_eq!(found(&undelivered), ["1 of a", "2 of a"]);
    assert!(!gone.exists(), "nothing is left of it");
    drop(spool);
    // And so on, under the name of the worker that ran the jobs.
    let (spool, undelivered) = open(root.path(), "c");
    assert_eq!(found(&undelivered), ["1 of a", "2 of a"]);
    undelivered.results.iter().for_each(|(entry, _)| spool.remove(entry).unwrap());
    drop(spool);
    assert_eq!(found(&open(root.path(), "d").1), Vec::<String>::new());
}

#[test]
fn the_living_other_queues_and_what_is_for_people_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let (living, _) = open(root.path(), "living");
    living.write(&living.new_entry(), &record("1")).unwrap();
    leave(root.path(), "other", "http://h/v2/f/job-done/$RUNPOD_POD_ID/$ID", &["2"]);
    let (dying, _) = open(root.path(), "dying");
    dying.keep_dead_letter(&dying.new_entry(), &record("3"), &DeadLetterReason::default()).unwrap();
    drop(dying);
    fs::create_dir(root.path().join("no-spool")).unwrap();
    fs::write(root.path().join("no-folder"), "").unwrap();
    let (_spool, undelivered) = open(root.path(), "b");
    assert_eq!(found(&undelivered), Vec::<String>::new());
    for path in ["living/results", "other/results", "dying/dead-letters", "no-spool"] {
        assert!(root.path().join(path).exists(), "{path}");
    }
    assert_eq!(found(&open(root.path(), "other").1), ["2 of other"]);
}

#[test]
fn of_workers_that_start_at_the_same_time_one_adopts_each_result() {
    let root = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let jobs: Vec<String> = (0..6).map(|job| format!("{round}-{job}")).collect();
        for (index, job) in jobs.iter().enumerate() {
            leave(root.path(), &format!("gone-{index}"), QUEUE, &[job]);
        }
        let barrier = Barrier::new(4);
        let start = |worker: String| {
            barrier.wait();
            let (spool, undelivered) = open(root.path(), &worker);
            undelivered.results.iter().for_each(|(entry, _)| spool.remove(entry).unwrap());
            undelivered.results.iter().map(|(_, record)| record.job.to_string()).collect::<Vec<_>>()
        };
        let mut all: Vec<String> = std::thread::scope(|scope| {
            // Among them one that comes back under its name.
            let names = ["b", "c", "d", "gone-0"].map(|name| scope.spawn(|| start(name.to_owned())));
            names.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        all.sort();
        assert_eq!(all, jobs);
    }
}

#[test]
fn a_start_adopts_within_its_limits_and_the_next_ones_go_on() {
    let root = tempfile::tempdir().unwrap();
    let jobs = ["1", "2-is-larger-than-a-start-may-hold", "3"];
    leave(root.path(), "a", QUEUE, &jobs);
    let none = AdoptionLimits { time: Duration::ZERO, ..PATIENT };
    assert_eq!(found(&open_within(root.path(), "b", none).1), Vec::<String>::new());

    let of = |path: &str| fs::metadata(root.path().join(path)).unwrap().len();
    let both = of("a/results/000000000001.result") + of("a/results/000000000003.result");
    let (spool, undelivered) = open_within(root.path(), "c", AdoptionLimits { bytes: both, ..PATIENT });
    assert_eq!(found(&undelivered), ["1 of a", "3 of a"], "one that does not fit is passed over");
    undelivered.results.iter().for_each(|(entry, _)| spool.remove(entry).unwrap());
    drop(spool);
    let (_spool, undelivered) = open_within(root.path(), "d", AdoptionLimits { bytes: 1, ..PATIENT });
    assert_eq!(found(&undelivered), [format!("{} of a", jobs[1])], "the first one is taken whatever its size");
}

#[test]
fn results_of_no_known_queue_wait_for_a_worker_of_their_name() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(root.path(), "old", QUEUE);
    config.origin = Origin::default();
    let (spool, _) = Spool::open(&config).unwrap().unwrap();
    spool.write(&spool.new_entry(), &record("1")).unwrap();
    drop(spool);
    assert_eq!(found(&open(root.path(), "b").1), Vec::<String>::new());
    assert_eq!(found(&open(root.path(), "old").1), ["1 of "]);
}

/// What a living worker finds when one that cannot see its lock has started: everything, or only its results are gone.
fn removals() -> [fn(&Path); 2] {
    [|own| drop(fs::remove_dir_all(own)), |own| drop(fs::remove_dir_all(own.join(RESULTS)))]
}

#[test]
fn a_living_worker_whose_folder_is_adopted_goes_on() {
    for remove in removals() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a");
        let (spool, _) = open(root.path(), "a");
        spool.keep_dead_letter(&spool.new_entry(), &record("dead"), &DeadLetterReason::default()).unwrap();
        let entry = spool.new_entry();
        spool.write(&entry, &record("1")).unwrap();

        remove(&own);
        spool.keep_dead_letter(&entry, &record("1"), &DeadLetterReason::default()).unwrap();
        let letters = DeadLetters::new(&config(root.path(), "a", QUEUE)).unwrap();
        assert!(letters.find("1").unwrap().reason.is_some());

        remove(&own);
        let entry = spool.new_entry();
        spool.write(&entry, &record("2")).unwrap();
        assert!(entry.is_written());

        remove(&own);
        spool.probe().unwrap();
        let entry = spool.new_entry();
        spool.write(&entry, &record("3")).unwrap();
        assert_eq!(found(&open(root.path(), "b").1), Vec::<String>::new(), "it has locked its folder again");
        drop(spool);
        assert_eq!(found(&open(root.path(), "c").1), ["3 of a"]);
    }
}

#[test]
fn a_folder_with_a_dead_letter_stays_whole() {
    let root = tempfile::tempdir().unwrap();
    let own = leave(root.path(), "a", QUEUE, &["1"]);
    fs::write(own.join("dead-letters/000000000009.result"), "").unwrap();
    assert_eq!(found(&open(root.path(), "b").1), ["1 of a"]);
    assert!(own.join(RESULTS).exists());
}

#[test]
fn a_lock_that_cannot_be_made_is_an_error_and_no_endless_wait() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("a")).unwrap();
    std::os::unix::fs::symlink("nowhere/at/all", root.path().join("a/lock")).unwrap();
    let error = Spool::open(&config(root.path(), "a", QUEUE)).unwrap_err();
    assert!(matches!(error, SpoolError::Io { .. }), "{error}");
}
