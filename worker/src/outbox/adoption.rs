//! What workers of other names have left below the same folder. A worker that is replaced on a platform has a new id each
//! time, so the results that its predecessor could not deliver lie on their shared volume under a name that never comes back.
//!
//! A folder that nobody has locked is locked, and each of its results that belongs to this worker's queue is written down in
//! this worker's own folder before it is removed there. So a crash at any moment leaves at least one copy, and of two workers
//! that start at the same time one adopts. Results are posted under the id of the worker that ran the job. What is for people,
//! dead letters and files set aside, stays where it is; a folder without anything in it is removed.
//!
//! A file system that does not show locks to other machines makes a living worker look like a dead one. Its results are
//! then posted twice, and it makes its folder again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::filesystem::{Filesystem as _, Found, RealFilesystem};
use super::lock::{FolderLock, LockError};
use super::record::{Record, RecordError};
use super::spool::{ASIDE, LARGEST, LOCK, RESULTS, Reason, Recovery, Spool, TEMPORARY, number};

/// One start adopts for at most this long, less than a worker waits for its own lock; …
const TIME: Duration = Duration::from_secs(2);
/// … at most so many results; …
const RESULTS_MAX: usize = 1000;
/// … and at most so many bytes, because they are held in memory. The rest is left to the next start.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is left of these limits.
struct Budget {
    until: Instant,
    results: usize,
    bytes: u64,
}

impl Budget {
    fn takes(&mut self, file: &Found) -> bool {
        let takes = self.results > 0 && file.len <= self.bytes && Instant::now() < self.until;
        if takes {
            (self.results, self.bytes) = (self.results - 1, self.bytes - file.len);
        }
        takes
    }
}

/// Adopts what is found below `root` beside the folder `own`. What cannot be adopted is logged and left.
pub(super) fn adopt(spool: &Spool, root: &Path, own: &str, recovery: &mut Recovery) {
    let Some(queue) = spool.queue() else { return };
    let Ok(entries) = fs::read_dir(root) else { return };
    let mut budget = Budget { until: Instant::now() + TIME, results: RESULTS_MAX, bytes: BYTES_MAX };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| name != own);
    for owner in names {
        if Instant::now() >= budget.until {
            tracing::info!(
                "Other workers have left more than can be looked at now: the rest is left to the next start."
            );
            return;
        }
        let folder = root.join(&owner);
        match adopt_folder(spool, queue, &folder, &owner, recovery, &mut budget) {
            Ok(0) => {}
            Ok(results) => tracing::info!(worker = owner, results, "Results of a worker that is gone are adopted."),
            Err(error) => tracing::warn!(worker = owner, %error, "What another worker has left cannot be adopted."),
        }
    }
}

/// Returns how many results were adopted.
fn adopt_folder(
    spool: &Spool,
    queue: &str,
    folder: &Path,
    owner: &str,
    recovery: &mut Recovery,
    budget: &mut Budget,
) -> io::Result<usize> {
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
    let mut adopted = 0;
    for file in files {
        let path = results.join(&file.name);
        match Record::decode(RealFilesystem.read(&path)?, owner) {
            Ok(record) if record.origin.as_ref().is_some_and(|origin| origin.queue == queue) => {
                if !budget.takes(&file) {
                    break;
                }
                take_in(spool, record, recovery)?;
                RealFilesystem.remove(&path)?;
                adopted += 1;
            }
            // The crash came before it was whole: nobody counts on it.
            Err(RecordError::Torn) if file.name.ends_with(TEMPORARY) => RealFilesystem.remove(&path)?,
            Ok(_) | Err(_) => {}
        }
    }
    remove_if_empty(folder);
    Ok(adopted)
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

    fn open(root: &Path, worker: &str) -> (Spool, Recovery) {
        Spool::open(&config(root, worker, QUEUE)).unwrap().unwrap()
    }

    fn record(job: &str) -> Record {
        let body = Bytes::from(format!("{{\"output\":\"{job}\"}}"));
        Record { job: job.into(), streamed: false, attempt: 1, time_ms: now_ms(), body, origin: None }
    }

    /// A worker that ends without having delivered the results of these jobs.
    fn leave(root: &Path, worker: &str, queue: &str, jobs: &[&str]) -> PathBuf {
        let (spool, _) = Spool::open(&config(root, worker, queue)).unwrap().unwrap();
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
