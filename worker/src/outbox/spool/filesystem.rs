//! The few file operations that the spool is built from, behind a trait, so that a test can make each of them fail.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Its name; not a path.
    pub name: String,
    /// Its size in bytes.
    pub len: u64,
}

/// What the spool needs of a file system. What is written or renamed is safe from a power cut only after
/// [`Filesystem::sync_folder`] of its folder.
pub trait Filesystem: Debug + Send + Sync + 'static {
    /// Makes a folder that only this user can enter; one that exists already must be such a folder.
    ///
    /// # Errors
    /// The error of the operating system, or that the folder belongs to another user.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// The plain files in a folder.
    ///
    /// # Errors
    /// The error of the operating system.
    fn list(&self, folder: &Path) -> io::Result<Vec<FoundFile>>;

    /// A whole file.
    ///
    /// # Errors
    /// The error of the operating system.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes a new file that only this user can read, and waits until its content is on the disk.
    ///
    /// # Errors
    /// The error of the operating system; a part of the file may be there then.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;

    /// Moves a file; atomic.
    ///
    /// # Errors
    /// The error of the operating system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The error of the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Waits until the names in a folder are on the disk.
    ///
    /// # Errors
    /// The error of the operating system.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The result of a removal, where a file that does not exist counts as removed.
pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFilesystem;

impl Filesystem for RealFilesystem {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        // Results are the users' data: they are not written to a folder that another user has made.
        let found = fs::symlink_metadata(path)?;
        if !found.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the folder belongs to another user"));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        }
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<FoundFile>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let data = match entry.metadata() {
                // It has just been removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if data.is_file() {
                found.push(FoundFile { name: entry.file_name().to_string_lossy().into_owned(), len: data.len() });
            }
        }
        Ok(found)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}
