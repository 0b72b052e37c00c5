//! The spool against a model, with a disk that fails and crashes at every step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::faulty::{Fault, FaultyFilesystem};
use super::*;
use crate::outbox::dead_letters::DeadLetters;

const OWN: &str = "/spool/w1";
const OWNER: &str = "w1";

fn start(files: &FaultyFilesystem) -> (Spool, Undelivered) {
    Spool::start(Arc::new(files.clone()), Path::new(OWN), OWNER, RetentionLimits::default()).unwrap()
}

fn record(job: &str, version: u32) -> Record {
    let body = Bytes::from(format!("{{\"output\":\"{job} {version} {}\"}}", "x".repeat(version as usize % 50)));
    Record { job: job.into(), streamed: false, attempt: 1, time_ms: 1, body: body.into(), origin: None }
}

fn jobs(undelivered: &Undelivered) -> Vec<&str> {
    undelivered.results.iter().map(|(_, record)| record.job.as_str()).collect()
}

fn dead(files: &FaultyFilesystem) -> DeadLetters {
    DeadLetters::at(Arc::new(files.clone()), Path::new(OWN), OWNER)
}

/// What the model does. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Move {
    /// A job finishes, and its result is to be written down.
    Write,
    /// A result that could not be written is tried again.
    WriteAgain(usize),
    /// The queue accepts a result.
    Deliver(usize),
    /// The queue refuses one for good.
    Refuse(usize),
    Probe,
    /// So many steps from now.
    Inject(u64, Fault),
    /// The worker is killed, or the power is cut.
    Restart(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let fault = prop_oneof![
        2 => Just(Fault::Crash),
        1 => Just(Fault::Fails),
        2 => (0u16..200).prop_map(Fault::Full),
    ];
    let one = prop_oneof![
        6 => Just(Move::Write),
        2 => (0usize..8).prop_map(Move::WriteAgain),
        4 => (0usize..8).prop_map(Move::Deliver),
        2 => (0usize..8).prop_map(Move::Refuse),
        1 => Just(Move::Probe),
        5 => (1u64..14, fault).prop_map(|(steps, fault)| Move::Inject(steps, fault)),
        1 => any::<bool>().prop_map(Move::Restart),
    ];
    prop::collection::vec(one, 1..60)
}

/// What is known about one job.
#[derive(Debug, Default)]
struct Known {
    record: Option<Record>,
    /// `write` came back without an error.
    written: bool,
    /// A removal was begun, so that it may or may not be found after a crash.
    leaving: bool,
    /// A move to the dead letters was begun.
    becoming_dead: bool,
    /// `keep_dead_letter` came back without an error.
    dead: bool,
    delivered: u32,
    recovered: u32,
}

/// A worker that only has a spool.
struct Model {
    files: FaultyFilesystem,
    spool: Spool,
    /// In this worker's memory.
    held: Vec<(SpoolEntry, Record)>,
    known: BTreeMap<String, Known>,
    dice: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let files = FaultyFilesystem::default();
        let (spool, _) = start(&files);
        Self { files, spool, held: Vec::new(), known: BTreeMap::new(), dice: seed | 1 }
    }

    fn known(&mut self, record: &Record) -> &mut Known {
        self.known.entry(record.job.as_str().to_owned()).or_default()
    }

    fn act(&mut self, step: &Move) {
        match *step {
            Move::Write => {
                let version = u32::try_from(self.known.len()).unwrap();
                let record = record(&format!("job-{version}"), version);
                let entry = self.spool.new_entry();
                self.known(&record).record = Some(record.clone());
                self.held.push((entry, record));
                self.write(self.held.len() - 1);
            }
            Move::WriteAgain(which) if which < self.held.len() => self.write(which),
            Move::Deliver(which) if which < self.held.len() => self.deliver(which),
            Move::Refuse(which) if which < self.held.len() => {
                let (entry, record) = self.held.remove(which);
                self.known(&record).becoming_dead = true;
                let done =
                    self.spool.keep_dead_letter(&entry, &record, &DeadLetterReason::new(Some(404), "gone".into()));
                if done.is_ok() {
                    self.known(&record).dead = true;
                } else {
                    // As the outbox: counted, logged, and a person is told that it may not be kept.
                    self.known(&record).leaving = true;
                }
            }
            Move::Probe => {
                let _ = self.spool.probe();
            }
            Move::Inject(steps, fault) => self.files.inject(steps, fault),
            Move::Restart(power_cut) => self.restart(power_cut),
            // Nothing there.
            _ => {}
        }
        if self.files.has_crashed() {
            let cut = self.roll().is_multiple_of(2);
            self.restart(cut);
        }
    }

    fn write(&mut self, which: usize) {
        let (entry, record) = self.held[which].clone();
        let done = self.spool.write(&entry, &record).is_ok();
        assert_eq!(entry.is_written(), done);
        if done {
            self.known(&record).written = true;
        }
    }

    fn deliver(&mut self, which: usize) {
        let (entry, record) = self.held.remove(which);
        let known = self.known(&record);
        known.delivered += 1;
        known.leaving = true;
        // A removal that fails is repeated by the outbox; here the file simply stays.
        let _ = self.spool.remove(&entry);
    }

    fn roll(&mut self) -> u64 {
        // xorshift: the moves alone decide what happens.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }

    /// A new worker finds everything that the old one had been promised was safe.
    fn restart(&mut self, power_cut: bool) {
        let mut dice = self.dice;
        self.files.restart(power_cut, || {
            dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            dice >> 33
        });
        self.dice = dice | 1;
        // The old worker's memory is gone.
        self.held.clear();
        let (spool, undelivered) = start(&self.files);
        self.spool = spool;
        let buried: Vec<Record> = {
            let dead = dead(&self.files);
            dead.ids().unwrap().into_iter().filter_map(|id| dead.get(id).ok()).map(|letter| letter.record).collect()
        };
        for (_, record) in &undelivered.results {
            let known = self.known.get_mut(record.job.as_str()).expect("a result that nobody has written");
            assert_eq!(known.record.as_ref(), Some(record), "not what was written");
            known.recovered += 1;
        }
        for (name, known) in &mut self.known {
            let found = undelivered.results.iter().any(|(_, record)| record.job.as_str() == name);
            let kept = buried.iter().any(|record| record.job.as_str() == name);
            if known.written && !known.leaving && !known.becoming_dead {
                assert!(found, "{name} was written and is lost");
            }
            if known.dead {
                assert!(kept || found, "the dead letter of {name} is lost");
                // A move that was not synced is undone by a power cut.
                known.dead = kept;
            }
            if known.written && known.becoming_dead && known.delivered == 0 {
                assert!(found || kept, "{name} was lost on its way to the dead letters");
            }
            assert!(known.delivered <= 1 + known.recovered, "{name} was delivered twice and not counted");
            if !found {
                // Whatever happened to it, it is over; what never was on disk died with its worker.
                known.written = false;
            }
        }
        self.held = undelivered.results;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_never_lost_and_a_second_delivery_is_counted(moves in moves(), seed in any::<u64>()) {
        let mut model = Model::new(seed);
        for step in moves {
            model.act(&step);
        }
        model.restart(false);
        while !model.held.is_empty() {
            model.deliver(0);
        }
        model.restart(true);
        for (name, known) in &model.known {
            prop_assert!(known.delivered <= 1 + known.recovered, "{} was delivered twice and not counted", name);
        }
    }
}

#[test]
fn a_crash_at_every_single_step_of_a_write_loses_nothing_that_was_promised() {
    for power_cut in [false, true] {
        for step in 1..20 {
            for dice in 0..8u64 {
                let files = FaultyFilesystem::default();
                let (spool, _) = start(&files);
                let entry = spool.new_entry();
                spool.write(&entry, &record("safe", 1)).unwrap();
                files.inject(step, Fault::Crash);
                let written = spool.write(&spool.new_entry(), &record("new", 2)).is_ok();
                let mut bits = dice;
                files.restart(power_cut, || {
                    bits = bits.rotate_right(1);
                    bits
                });
                let (_, undelivered) = start(&files);
                let found = jobs(&undelivered);
                assert!(found.contains(&"safe"));
                assert!(!written || found.contains(&"new"), "step {step}, dice {dice}, power cut {power_cut}");
                assert!(found.len() + usize::try_from(undelivered.set_aside).unwrap() <= 2);
            }
        }
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind_and_the_result_can_be_written_later() {
    for room in [0, 10, 80] {
        for step in 2..7 {
            let files = FaultyFilesystem::default();
            let (spool, _) = start(&files);
            let entry = spool.new_entry();
            files.inject(step, Fault::Full(room));
            if spool.write(&entry, &record("a", 1)).is_err() {
                assert!(files.list(Path::new("/spool/w1/results")).unwrap().is_empty());
                spool.write(&entry, &record("a", 1)).unwrap();
            }
            assert_eq!(jobs(&start(&files).1), ["a"]);
        }
    }
}

#[test]
fn torn_and_foreign_files_are_set_aside_and_the_rest_is_delivered() {
    let files = FaultyFilesystem::default();
    let (spool, _) = start(&files);
    spool.write(&spool.new_entry(), &record("a", 1)).unwrap();
    let whole = files.read(Path::new("/spool/w1/results/000000000001.result")).unwrap();
    let foreign = record("b", 1);
    let put = |name: &str, parts: &[&[u8]]| files.write(&Path::new("/spool/w1/results").join(name), parts).unwrap();
    put("000000000002.result", &[&whole[..whole.len() - 3]]);
    put("000000000003.result", &[&foreign.header("w2", &Origin::default()), &foreign.body.whole()]);
    put("notes.txt", &[b"hello"]);
    // Whole, but the crash came before it had its name.
    put("000000000005.tmp", &[&foreign.header(OWNER, &Origin::default()), &foreign.body.whole()]);
    // Cut off at any byte, the first included: an end of the worker that harmed nobody.
    for len in 0..whole.len() {
        put(&format!("{:012}.tmp", 100 + len), &[&whole[..len]]);
    }
    let (spool, undelivered) = start(&files);
    assert_eq!((jobs(&undelivered), undelivered.set_aside), (vec!["a", "b"], 3));
    assert_eq!(files.list(Path::new("/spool/w1/set-aside")).unwrap().len(), 3);
    for (entry, _) in &undelivered.results {
        spool.remove(entry).unwrap();
    }
    let (_, undelivered) = start(&files);
    assert_eq!((undelivered.results.len(), undelivered.set_aside), (0, 0), "told once");
}

#[test]
fn of_two_results_of_a_job_the_newer_is_delivered_and_the_older_is_kept() {
    let files = FaultyFilesystem::default();
    let (spool, _) = start(&files);
    spool.write(&spool.new_entry(), &record("a", 1)).unwrap();
    spool.write(&spool.new_entry(), &record("a", 2)).unwrap();
    let (_, undelivered) = start(&files);
    assert_eq!(undelivered.results.iter().map(|(_, found)| found.clone()).collect::<Vec<_>>(), [record("a", 2)]);
    assert_eq!(dead(&files).find("a").unwrap().record, record("a", 1));
}

#[test]
fn a_dead_letter_is_kept_or_stays_where_it_was_wherever_the_disk_fails() {
    for step in 1..=8 {
        let files = FaultyFilesystem::default();
        let (spool, _) = start(&files);
        let (entry, record) = (spool.new_entry(), record("a", 1));
        spool.write(&entry, &record).unwrap();
        files.inject(step, Fault::Fails);
        let kept = spool.keep_dead_letter(&entry, &record, &DeadLetterReason::new(Some(404), "gone".into())).is_ok();
        assert_eq!(dead(&files).find("a").is_ok(), kept, "step {step}");
        assert_eq!(files.list(Path::new("/spool/w1/results")).unwrap().is_empty(), kept, "step {step}");
        assert_eq!(entry.is_written(), !kept, "step {step}");
    }
}

#[test]
fn dead_letters_are_bounded_and_the_oldest_go() {
    let files = FaultyFilesystem::default();
    let limits = RetentionLimits { max_count: 3, max_bytes: 1 << 20 };
    let (spool, _) = Spool::start(Arc::new(files.clone()), Path::new(OWN), OWNER, limits).unwrap();
    for version in 0..5 {
        let (entry, record) = (spool.new_entry(), record(&format!("j{version}"), version));
        if version % 2 == 0 {
            spool.write(&entry, &record).unwrap();
        }
        spool.keep_dead_letter(&entry, &record, &DeadLetterReason::new(Some(404), "gone".into())).unwrap();
    }
    let dead = dead(&files);
    let letters: Vec<_> = dead.ids().unwrap().into_iter().map(|id| dead.get(id).unwrap()).collect();
    assert_eq!(letters.iter().map(|letter| letter.record.job.as_str()).collect::<Vec<_>>(), ["j2", "j3", "j4"]);
    assert!(letters.iter().all(|letter| letter.reason.as_ref().is_some_and(|reason| reason.status == Some(404))));
    assert_eq!(files.list(Path::new("/spool/w1/dead-letters")).unwrap().len(), 6, "no note without its letter");
    dead.discard(letters[0].id).unwrap();
    assert!(dead.find("j2").is_err() && dead.find("j3").is_ok());
    assert_eq!(files.list(Path::new("/spool/w1/results")).unwrap(), []);

    let small = RetentionLimits { max_count: 100, max_bytes: 200 };
    let (spool, _) = Spool::start(Arc::new(files), Path::new(OWN), OWNER, small).unwrap();
    spool.keep_dead_letter(&spool.new_entry(), &record("last", 1), &DeadLetterReason::new(None, "old".into())).unwrap();
    assert_eq!(dead.ids().unwrap().len(), 1, "one of them fits");
}
