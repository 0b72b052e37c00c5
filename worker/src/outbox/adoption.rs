//! What workers of other names have left below the same folder. A worker that is replaced on a platform has a new id each
//! time, so the results that its predecessor could not deliver lie on their shared volume under a name that never comes back.
//!
//! A folder that nobody has locked is locked, and each of its results that belongs to this worker's queue is written down in
//! this worker's own folder before it is removed there. So a crash at any moment leaves at least one copy, and of two workers
//! that start at the same time one adopts. Results are posted under the id of the worker that ran the job. What is for people,
//! dead letters and files set aside, stays where it is; a folder without anything in it is removed.
//!
//! A file system that does not show locks to other machines makes a living worker look like a dead one. Its results are
//! then posted twice, and it makes its folder again, with its lock.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::filesystem::{Filesystem as _, Found, RealFilesystem};
use super::lock::{FolderLock, LockError};
use super::record::{Record, RecordError, read_head};
use super::spool::{ASIDE, LARGEST, LOCK, RESULTS, Reason, Recovery, Spool, TEMPORARY, number};

/// What one start adopts. The rest is left to the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdoptionLimits {
    /// No file is looked at after this time.
    pub(super) time: Duration,
    pub(super) results: usize,
    pub(super) bytes: u64,
}

impl Default for AdoptionLimits {
    fn default() -> Self {
        // Less time than a worker waits for its own lock, and no more bytes than can be held in memory.
        Self { time: Duration::from_secs(2), results: 1000, bytes: 64 * 1024 * 1024 }
    }
}

/// What is left of these limits.
struct Budget {
    until: Instant,
    results: usize,
    bytes: u64,
    untouched: bool,
}

impl Budget {
    fn new(limits: AdoptionLimits) -> Self {
        let AdoptionLimits { time, results, bytes } = limits;
        Self { until: Instant::now() + time, results, bytes, untouched: true }
    }

    fn is_over(&self) -> bool {
        self.results == 0 || Instant::now() >= self.until
    }

    /// The first result is taken whatever its size: a later start would have no more room for it.
    fn takes(&mut self, file: &Found) -> bool {
        let takes = self.untouched || file.len <= self.bytes;
        if takes {
            self.untouched = false;
            (self.results, self.bytes) = (self.results - 1, self.bytes.saturating_sub(file.len));
        }
        takes
    }
}

/// Adopts what is found below `root` beside the folder `own`. What cannot be adopted is logged and left.
pub(super) fn adopt(spool: &Spool, root: &Path, own: &str, recovery: &mut Recovery, limits: AdoptionLimits) {
    let Some(queue) = spool.queue() else { return };
    let Ok(entries) = fs::read_dir(root) else { return };
    let mut adoption = Adoption { spool, queue, recovery, budget: Budget::new(limits), nameless: 0, example: None };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| name != own);
    for owner in names {
        if adoption.budget.is_over() {
            tracing::info!(
                "Other workers have left more than can be looked at now: the rest is left to the next start."
            );
            break;
        }
        match adoption.folder(&root.join(&owner), &owner) {
            Ok(0) => {}
            Ok(results) => tracing::info!(worker = owner, results, "Results of a worker that is gone are adopted."),
            Err(error) => tracing::warn!(worker = owner, %error, "What another worker has left cannot be adopted."),
        }
    }
    if let Some(folder) = adoption.example {
        tracing::warn!(
            results = adoption.nameless,
            folder = %folder.display(),
            "Results that an earlier release has left do not say which queue they belong to and are not adopted. A worker of \
             their queue that is started once with the RUNPOD_POD_ID that the folder is named by delivers them."
        );
    }
}

struct Adoption<'a> {
    spool: &'a Spool,
    queue: &'a str,
    recovery: &'a mut Recovery,
    budget: Budget,
    /// Results of no known queue, and one folder of such.
    nameless: usize,
    example: Option<PathBuf>,
}

impl Adoption<'_> {
    /// Returns how many results were adopted.
    fn folder(&mut self, folder: &Path, owner: &str) -> io::Result<usize> {
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return Ok(0);
        }
        let _lock = match FolderLock::try_existing(&folder.join(LOCK)) {
            Ok(lock) => lock,
            // In use, or no spool.
            Err(LockError::Taken | LockError::Removed) => return Ok(0),
            Err(LockError::Io(error)) => return Err(error),
        };
        let results = folder.join(RESULTS);
        let mut files = match RealFilesystem.list(&results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        files.retain(|file| number(&file.name).is_some() && file.len <= LARGEST);
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let before = self.nameless;
        let mut adopted = 0;
        for file in files {
            if self.budget.is_over() {
                break;
            }
            match self.file(&results.join(&file.name), &file, owner) {
                // Its worker lives after all, and has delivered it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => adopted += usize::from(other?),
            }
        }
        if self.nameless > before {
            self.example.get_or_insert_with(|| folder.to_owned());
        }
        remove_if_empty(folder);
        Ok(adopted)
    }

    /// Returns whether it was adopted. What does not fit, or is another queue's, is not read to its end.
    fn file(&mut self, path: &Path, file: &Found, owner: &str) -> io::Result<bool> {
        let read = match Record::origin_of(&read_head(path)?, owner) {
            Ok(origin) if origin.queue.is_empty() => {
                self.nameless += 1;
                return Ok(false);
            }
            Ok(origin) if origin.queue != self.queue || !self.budget.takes(file) => return Ok(false),
            Ok(_) => Record::decode(RealFilesystem.read(path)?, owner),
            Err(error) => Err(error),
        };
        match read {
            Ok(record) => {
                take_in(self.spool, record, self.recovery)?;
                RealFilesystem.remove(path)?;
                Ok(true)
            }
            // The crash came before it was whole: nobody counts on it.
            Err(RecordError::Torn) if file.name.ends_with(TEMPORARY) => RealFilesystem.remove(path).map(|()| false),
            Err(_) => Ok(false),
        }
    }
}

fn take_in(spool: &Spool, record: Record, recovery: &mut Recovery) -> io::Result<()> {
    let ticket = spool.ticket();
    if recovery.results.iter().any(|(_, known)| known.job == record.job) {
        let reason = Reason::new(None, "another result of the same job was found as well".to_owned());
        return spool.bury(&ticket, &record, &reason);
    }
    spool.write(&ticket, &record)?;
    recovery.results.push((ticket, record));
    Ok(())
}

/// A folder with something in it stays whole: if its worker lives after all, it writes there. The lock is held meanwhile; who
/// waits for it sees that it is gone.
fn remove_if_empty(folder: &Path) {
    let parts = [RESULTS, super::dead_letters::FOLDER, ASIDE].map(|part| folder.join(part));
    let is_empty = |part: &PathBuf| match fs::read_dir(part) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let is_removed = |part: &PathBuf| match fs::remove_dir(part) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let removed = parts.iter().all(is_empty) && parts.iter().all(is_removed);
    if removed && fs::remove_file(folder.join(LOCK)).is_ok() {
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use bytes::Bytes;

    use super::super::dead_letters::DeadLetters;
    use super::super::record::{Origin, now_ms};
    use super::super::spool::{SpoolConfig, SpoolError};
    use super::*;

    const QUEUE: &str = "http://h/v2/e/job-done/$RUNPOD_POD_ID/$ID?gpu=A";

    fn config(root: &Path, worker: &str, queue: &str) -> SpoolConfig {
        let origin = Origin::new(worker, queue);
        SpoolConfig { folder: Some(root.to_owned()), required: true, always: false, owner: worker.to_owned(), origin }
    }

    /// As much time as a slow disk may need.
    const PATIENT: AdoptionLimits = AdoptionLimits { time: Duration::from_secs(600), results: 1000, bytes: u64::MAX };

    fn open(root: &Path, worker: &str) -> (Spool, Recovery) {
        open_within(root, worker, PATIENT)
    }

    fn open_within(root: &Path, worker: &str, limits: AdoptionLimits) -> (Spool, Recovery) {
        Spool::open_within(&config(root, worker, QUEUE), limits).unwrap().unwrap()
    }

    fn record(job: &str) -> Record {
        let body = Bytes::from(format!("{{\"output\":\"{job}\"}}"));
        Record { job: job.into(), streamed: false, attempt: 1, time_ms: now_ms(), body, origin: None }
    }

    /// A worker that ends without having delivered the results of these jobs.
    fn leave(root: &Path, worker: &str, queue: &str, jobs: &[&str]) -> PathBuf {
        let (spool, _) = Spool::open_within(&config(root, worker, queue), PATIENT).unwrap().unwrap();
        jobs.iter().for_each(|job| spool.write(&spool.ticket(), &record(job)).unwrap());
        root.join(worker)
    }

    /// `job of worker` for each result.
    fn found(recovery: &Recovery) -> Vec<String> {
        let name = |record: &Record| {
            let worker = record.origin.as_ref().map(|origin| origin.worker.as_str()).unwrap_or_default();
            format!("{} of {worker}", record.job)
        };
        let mut found: Vec<_> = recovery.results.iter().map(|(_, record)| name(record)).collect();
        found.sort();
        found
    }

    #[test]
    fn a_replacement_adopts_what_its_predecessor_left_and_keeps_it_until_it_is_delivered() {
        let root = tempfile::tempdir().unwrap();
        let gone = leave(root.path(), "a", QUEUE, &["1", "2"]);
        fs::write(gone.join("results/000000000009.tmp"), "runpod-result 1 crc32=").unwrap();
        let (spool, recovery) = open(root.path(), "b");
        assert_eq!(found(&recovery), ["1 of a", "2 of a"]);
        assert!(!gone.exists(), "nothing is left of it");
        drop(spool);
        // And so on, under the name of the worker that ran the jobs.
        let (spool, recovery) = open(root.path(), "c");
        assert_eq!(found(&recovery), ["1 of a", "2 of a"]);
        recovery.results.iter().for_each(|(ticket, _)| spool.remove(ticket).unwrap());
        drop(spool);
        assert_eq!(found(&open(root.path(), "d").1), Vec::<String>::new());
    }

    #[test]
    fn the_living_other_queues_and_what_is_for_people_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (living, _) = open(root.path(), "living");
        living.write(&living.ticket(), &record("1")).unwrap();
        leave(root.path(), "other", "http://h/v2/f/job-done/$RUNPOD_POD_ID/$ID", &["2"]);
        let (dying, _) = open(root.path(), "dying");
        dying.bury(&dying.ticket(), &record("3"), &Reason::default()).unwrap();
        drop(dying);
        fs::create_dir(root.path().join("no-spool")).unwrap();
        fs::write(root.path().join("no-folder"), "").unwrap();
        let (_spool, recovery) = open(root.path(), "b");
        assert_eq!(found(&recovery), Vec::<String>::new());
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
                let (spool, recovery) = open(root.path(), &worker);
                recovery.results.iter().for_each(|(ticket, _)| spool.remove(ticket).unwrap());
                recovery.results.iter().map(|(_, record)| record.job.to_string()).collect::<Vec<_>>()
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
        let (spool, recovery) = open_within(root.path(), "c", AdoptionLimits { bytes: both, ..PATIENT });
        assert_eq!(found(&recovery), ["1 of a", "3 of a"], "one that does not fit is passed over");
        recovery.results.iter().for_each(|(ticket, _)| spool.remove(ticket).unwrap());
        drop(spool);
        let (_spool, recovery) = open_within(root.path(), "d", AdoptionLimits { bytes: 1, ..PATIENT });
        assert_eq!(found(&recovery), [format!("{} of a", jobs[1])], "the first one is taken whatever its size");
    }

    #[test]
    fn results_of_no_known_queue_wait_for_a_worker_of_their_name() {
        let root = tempfile::tempdir().unwrap();
        let mut config = config(root.path(), "old", QUEUE);
        config.origin = Origin::default();
        let (spool, _) = Spool::open(&config).unwrap().unwrap();
        spool.write(&spool.ticket(), &record("1")).unwrap();
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
            spool.bury(&spool.ticket(), &record("dead"), &Reason::default()).unwrap();
            let ticket = spool.ticket();
            spool.write(&ticket, &record("1")).unwrap();

            remove(&own);
            spool.bury(&ticket, &record("1"), &Reason::default()).unwrap();
            let letters = DeadLetters::new(&config(root.path(), "a", QUEUE)).unwrap();
            assert!(letters.find("1").unwrap().reason.is_some());

            remove(&own);
            let ticket = spool.ticket();
            spool.write(&ticket, &record("2")).unwrap();
            assert!(ticket.is_written());

            remove(&own);
            spool.probe().unwrap();
            let ticket = spool.ticket();
            spool.write(&ticket, &record("3")).unwrap();
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
}
