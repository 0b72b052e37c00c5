//! The few file operations that the spool is built from, behind a trait, so that a test can make each of them fail.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A file in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
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
    /// What the operating system says, or that the folder is another user's.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// The plain files in a folder.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<Found>>;

    /// A whole file.
    ///
    /// # Errors
    /// What the operating system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes a new file that only this user can read, and waits until its content is on the disk.
    ///
    /// # Errors
    /// What the operating system says; a part of the file may be there then.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;

    /// Moves a file; atomic.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Waits until the names in a folder are on the disk.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
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
        // Results are the users' data: a folder that somebody else has put there is not trusted with them.
        let found = fs::symlink_metadata(path)?;
        if !found.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "there is something else in its place"));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the folder belongs to another user"));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        }
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let data = match entry.metadata() {
                // It has just been removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if data.is_file() {
                found.push(Found { name: entry.file_name().to_string_lossy().into_owned(), len: data.len() });
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
