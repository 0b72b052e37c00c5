//! Reads what an earlier run has left in the spool.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::Spool;
use super::entry::{EntryState, SpoolEntry};
use super::filesystem::ignore_missing;
use super::layout::{PROBE, RESULT, TEMPORARY, number};
use super::reason::DeadLetterReason;
use super::record::{Record, RecordError};
use super::undelivered::Undelivered;
use crate::outbox::limits::SPOOL_FILE_MAX;

impl Spool {
    /// Reads every file in `results/`. What cannot be delivered is set aside; a write that was cut off is removed.
    pub(super) fn recover(&self) -> io::Result<Undelivered> {
        let mut found = self.files.list(&self.results)?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut undelivered = Undelivered::default();
        let mut newest: BTreeMap<String, usize> = BTreeMap::new();
        for file in found {
            let path = self.results.join(&file.name);
            let decoded = if file.name == PROBE {
                ignore_missing(self.files.remove(&path))?;
                continue;
            } else if file.len > SPOOL_FILE_MAX || number(&file.name).is_none() {
                Err(RecordError::Foreign)
            } else {
                Record::decode(self.files.read(&path)?, &self.owner)
            };
            let record = match decoded {
                Ok(record) => record,
                // Its write was cut off by the end of the worker, so nobody was told that it is on disk. The queue gives the job
                // out again.
                Err(RecordError::Torn) if file.name.ends_with(TEMPORARY) => {
                    tracing::info!(file = file.name, "A result whose write was cut off is removed.");
                    self.files.remove(&path)?;
                    continue;
                }
                Err(error) => {
                    undelivered.set_aside += 1;
                    tracing::warn!(file = file.name, %error, "A file in the spool cannot be delivered and is set aside.");
                    self.files.rename(&path, &self.aside.join(&file.name))?;
                    continue;
                }
            };
            newest.insert(record.job.as_str().to_owned(), undelivered.results.len());
            let entry = if file.name.ends_with(TEMPORARY) {
                self.write_again(&path, &record)
            } else {
                SpoolEntry::new(file.name.trim_end_matches(RESULT).to_owned(), EntryState::Written)
            };
            undelivered.results.push((entry, record));
        }
        if undelivered.set_aside > 0 {
            self.files.sync_folder(&self.aside)?;
            self.trim(&self.aside);
        }
        self.files.sync_folder(&self.results)?;
        self.keep_newest(&mut undelivered, &newest)?;
        Ok(undelivered)
    }

    /// A file that is whole but has not got its name: the crash came before the rename, perhaps before the fsync, so it is
    /// written once more. If that fails, it is delivered from memory.
    fn write_again(&self, temporary: &Path, record: &Record) -> SpoolEntry {
        let entry = self.new_entry();
        if self.write(&entry, record).is_ok() {
            let _ = self.files.remove(temporary);
        }
        entry
    }

    /// A job has one outcome: of several results the last one is delivered.
    fn keep_newest(&self, undelivered: &mut Undelivered, newest: &BTreeMap<String, usize>) -> io::Result<()> {
        let all = std::mem::take(&mut undelivered.results);
        for (index, (entry, record)) in all.into_iter().enumerate() {
            if newest.get(record.job.as_str()) == Some(&index) {
                undelivered.results.push((entry, record));
            } else {
                let reason = DeadLetterReason::new(None, "a later result of the same job replaces it".to_owned());
                self.keep_dead_letter(&entry, &record, &reason)?;
            }
        }
        Ok(())
    }
}
