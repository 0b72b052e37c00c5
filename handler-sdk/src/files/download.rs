//! Downloads: from a URL that a client has chosen to a file in the job's temporary folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Response, Url};
use tempfile::TempDir;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::context::{Context, may_pass, tries};
use super::http::{check, download_error, host_of};
use super::input::{FileInput, Source};
use super::name::{UNNAMED, content_type, name_in_disposition, name_of_type, safe_name, type_of_name};
use crate::file_error::FileError;

/// Redirects followed for one file, as in the official package.
const MAX_REDIRECTS: usize = 5;

const WRITE: &str = "the file cannot be written to the job's temporary folder";

/// Limits of one download.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_bytes: u64,
    pub(crate) timeout: Duration,
}

/// A file in the job's temporary folder, which is removed when the job ends.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    name: String,
    content_type: String,
    len: u64,
}

impl LocalFile {
    /// Where the file is. Each file has a folder of its own, so files with equal names do not collide.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name as the sender gave it, without anything that could mean something to a file system: at most 100 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its content type as the sender gave it, such as `image/png`, else the type that belongs to the name. The sender may be wrong.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsRef<Path> for LocalFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// Puts the file that `input` stands for into `folder`.
pub(crate) async fn fetch(
    context: &Context,
    folder: &Path,
    limits: Limits,
    input: FileInput,
) -> Result<LocalFile, FileError> {
    let limits = Limits { max_bytes: limits.max_bytes.min(context.shared.settings.max_download), ..limits };
    match input.0 {
        Source::Data { content_type, data } => store(folder, limits, content_type, &data).await,
        Source::Url(url) => {
            let host = host_of(&url);
            let download = tries(
                || download(context, folder, limits, url.clone()),
                |error| match error {
                    FileError::Unreachable { .. } => true,
                    FileError::Status { status, .. } => may_pass(*status),
                    _ => false,
                },
            );
            match tokio::time::timeout(limits.timeout, context.until_stopped(download)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(FileError::TooSlow { host, limit: limits.timeout }),
            }
        }
    }
}

/// Data that came with the input.
async fn store(
    folder: &Path,
    limits: Limits,
    content_type: Option<String>,
    data: &Bytes,
) -> Result<LocalFile, FileError> {
    let name = content_type.as_deref().map_or_else(|| UNNAMED.to_owned(), name_of_type);
    let mut target = Target::create(folder, &name, limits.max_bytes).await?;
    target.write(data).await?;
    target.finish(name, content_type).await
}

async fn download(context: &Context, folder: &Path, limits: Limits, url: Url) -> Result<LocalFile, FileError> {
    let (url, mut response) = follow(context, url).await?;
    let host = host_of(&url);
    if response.content_length().is_some_and(|announced| announced > limits.max_bytes) {
        return Err(FileError::TooLarge { limit: limits.max_bytes });
    }
    let content_type = header(response.headers(), &CONTENT_TYPE).and_then(content_type);
    let name = header(response.headers(), &CONTENT_DISPOSITION).and_then(name_in_disposition);
    let name = name.or_else(|| name_in_url(&url)).unwrap_or_else(|| match &content_type {
        Some(content_type) => name_of_type(content_type),
        None => UNNAMED.to_owned(),
    });
    let mut target = Target::create(folder, &name, limits.max_bytes).await?;
    while let Some(chunk) = response.chunk().await.map_err(|error| download_error(&host, error))? {
        target.write(&chunk).await?;
    }
    target.finish(name, content_type).await
}

/// Requests the URL and follows its redirects. Each hop is checked before it is requested.
async fn follow(context: &Context, mut url: Url) -> Result<(Url, Response), FileError> {
    for _ in 0..=MAX_REDIRECTS {
        check(&context.shared.settings.reach, &url)?;
        let host = host_of(&url);
        let request = context.shared.clients.guarded.get(url.clone());
        let response = request.send().await.map_err(|error| download_error(&host, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok((url, response));
        }
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Err(FileError::Status { host, status: status.as_u16() });
        }
        let target = header(response.headers(), &LOCATION).and_then(|target| url.join(target).ok());
        url = target.ok_or(FileError::Redirects { host })?;
    }
    Err(FileError::Redirects { host: host_of(&url) })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

fn name_in_url(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back()?;
    safe_name(&percent_encoding::percent_decode_str(last).decode_utf8_lossy())
}

/// A file that is being written. One that is not finished is removed.
struct Target {
    folder: TempDir,
    path: PathBuf,
    file: File,
    len: u64,
    limit: u64,
}

impl Target {
    async fn create(folder: &Path, name: &str, limit: u64) -> Result<Self, FileError> {
        let folder = tempfile::Builder::new().prefix("file-").tempdir_in(folder).map_err(FileError::local(WRITE))?;
        let path = folder.path().join(name);
        let file = File::create_new(&path).await.map_err(FileError::local(WRITE))?;
        Ok(Self { folder, path, file, len: 0, limit })
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), FileError> {
        self.len += data.len() as u64;
        if self.len > self.limit {
            return Err(FileError::TooLarge { limit: self.limit });
        }
        self.file.write_all(data).await.map_err(FileError::local(WRITE))
    }

    async fn finish(mut self, name: String, content_type: Option<String>) -> Result<LocalFile, FileError> {
        self.file.flush().await.map_err(FileError::local(WRITE))?;
        // From here on the folder goes with that of the job.
        let _ = self.folder.keep();
        let content_type = content_type.unwrap_or_else(|| type_of_name(&name));
        Ok(LocalFile { path: self.path, name, content_type, len: self.len })
    }
}
