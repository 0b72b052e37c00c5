//! Files in memory with a disk under them: what was not synced may be lost in a crash, wholly or in part, and every step
//! can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::filesystem::{Filesystem, FoundFile};

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::outbox) enum Fault {
    /// The disk is full; a write gets this many bytes down.
    Full(u16),
    /// The operation fails and has done nothing.
    Fails,
    /// The process is killed or the power is cut just before the step; nothing works until the next start.
    Crash,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Bytes that survive a crash for certain.
    synced: usize,
}

/// A change of names that is not on the disk for certain.
#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Change {
    fn touches(&self, folder: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) => path.parent() == Some(folder),
            Self::Rename(from, to) => from.parent() == Some(folder) || to.parent() == Some(folder),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, content) => {
                names.insert(path.clone(), *content);
            }
            Self::Rename(from, to) => {
                if let Some(content) = names.remove(from) {
                    names.insert(to.clone(), content);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    folders: BTreeSet<PathBuf>,
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    /// Names on the disk.
    durable: BTreeMap<PathBuf, usize>,
    /// Changes on top of them, oldest first.
    changes: Vec<Change>,
    /// Steps done, and what goes wrong at which.
    step: u64,
    faults: BTreeMap<u64, Fault>,
    crashed: bool,
    /// Every operation fails until this is cleared.
    broken: bool,
}

/// The files and their disk. Cheap to clone; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(in crate::outbox) struct FaultyFilesystem(Arc<Mutex<State>>);

impl FaultyFilesystem {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// So many steps from now this goes wrong.
    pub(in crate::outbox) fn inject(&self, steps: u64, fault: Fault) {
        let mut state = self.lock();
        let at = state.step + steps;
        state.faults.insert(at, fault);
    }

    /// Every operation fails, as on a disk that was pulled out.
    pub(in crate::outbox) fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    pub(in crate::outbox) fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The machine starts again. Without `power_cut` everything that was done is there, as after `kill -9`; with it, each
    /// change that was not synced is there or not, and each file is cut somewhere behind its last sync: `dice` decides.
    pub(in crate::outbox) fn restart(&self, power_cut: bool, mut dice: impl FnMut() -> u64) {
        let mut state = self.lock();
        if power_cut {
            let mut names = state.durable.clone();
            for change in &state.changes {
                if dice().is_multiple_of(2) {
                    change.apply(&mut names);
                }
            }
            for content in &mut state.contents {
                let unsynced = content.bytes.len() - content.synced;
                let kept = dice() % (unsynced as u64 + 1);
                content.bytes.truncate(content.synced + kept as usize);
            }
            state.names = names;
        }
        state.durable = state.names.clone();
        state.changes.clear();
        state.faults.clear();
        state.crashed = false;
    }
}

impl State {
    /// One step of an operation. Answers the bytes that fit when the disk is full.
    fn step(&mut self) -> io::Result<Option<usize>> {
        let crash = || Error::other("the process is dead");
        if self.crashed {
            return Err(crash());
        }
        if self.broken {
            return Err(Error::other("the disk is gone"));
        }
        self.step += 1;
        match self.faults.remove(&self.step) {
            None => Ok(None),
            Some(Fault::Full(bytes)) => Ok(Some(usize::from(bytes))),
            Some(Fault::Fails) => Err(Error::other("it fails")),
            Some(Fault::Crash) => {
                self.crashed = true;
                Err(crash())
            }
        }
    }

    /// A step that needs no space.
    fn plain_step(&mut self) -> io::Result<()> {
        self.step().map(|_| ())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn content(&mut self, path: &Path) -> io::Result<&mut Content> {
        let index = *self.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(&mut self.contents[index])
    }
}

impl Filesystem for FaultyFilesystem {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.plain_step()?;
        state.folders.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<FoundFile>> {
        let mut state = self.lock();
        state.plain_step()?;
        if !state.folders.contains(folder) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(folder));
        let found = inside.filter_map(|(path, content)| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some(FoundFile { name, len: state.contents[*content].bytes.len() as u64 })
        });
        Ok(found.collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        state.plain_step()?;
        Ok(state.content(path)?.bytes.clone())
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.lock();
        state.plain_step()?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let index = state.contents.len();
        state.contents.push(Content::default());
        state.change(Change::Create(path.to_owned(), index));
        for part in parts {
            // In two halves, so that a crash can come in between.
            let (one, two) = part.split_at(part.len() / 2);
            for half in [one, two] {
                let room = state.step()?;
                let fits = room.unwrap_or(half.len()).min(half.len());
                state.contents[index].bytes.extend_from_slice(&half[..fits]);
                if room.is_some() {
                    return Err(ErrorKind::StorageFull.into());
                }
            }
        }
        state.plain_step()?;
        state.contents[index].synced = state.contents[index].bytes.len();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.plain_step()?;
        state.content(from)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.plain_step()?;
        state.content(path)?;
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.plain_step()?;
        let (synced, rest) = std::mem::take(&mut state.changes).into_iter().partition(|change| change.touches(folder));
        let synced: Vec<Change> = synced;
        for change in &synced {
            change.apply(&mut state.durable);
        }
        state.changes = rest;
        Ok(())
    }
}
