//! The files of one job.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::bucket::Bucket;
use super::context::{Context, Shared};
use super::download::{Limits, LocalFile, fetch};
use super::input::FileInput;
use super::runtime;
use super::upload::{Upload, Uploaded, upload};
use crate::file_error::FileError;
use crate::job::Job;

/// Transfers of one job that run at the same time.
const PARALLEL: usize = 8;
/// Longest time for one download, if the handler sets none.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A transfer that has not begun.
type Transfer<T> = BoxFuture<'static, Result<T, FileError>>;

impl<C> Job<C> {
    /// Fetches the files that this job names, and uploads those that it makes; see [`files`](crate::files). Feature `files`.
    pub fn files(&self) -> JobFiles<'_, C> {
        JobFiles { job: self, limits: Limits { max_bytes: u64::MAX, timeout: TIMEOUT } }
    }
}

/// Fetches and uploads files for one job; [`Job::files`] returns it.
///
/// Every transfer ends when the job ends: when it is cancelled, when its deadline passes or when the worker shuts down. The methods
/// without `async` block; those with it are for handlers that run on an async runtime, whichever that is.
pub struct JobFiles<'a, C> {
    job: &'a Job<C>,
    limits: Limits,
}

impl<C> fmt::Debug for JobFiles<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobFiles").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<C> Clone for JobFiles<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for JobFiles<'_, C> {}

impl<C> JobFiles<'_, C> {
    /// Most bytes of one file that is fetched. The limit of the worker's operator (`RUNPOD_MAX_DOWNLOAD_BYTES`, 5 GiB by default) holds
    /// too.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { limits: Limits { max_bytes, ..self.limits }, ..self }
    }

    /// Longest time for one download, redirects and further tries included; ten minutes by default. A download also ends when its
    /// host sends nothing for 30 seconds.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { limits: Limits { timeout, ..self.limits }, ..self }
    }

    /// Puts a file into the job's temporary folder. A download that fails for a reason that may pass is attempted three times.
    ///
    /// # Errors
    /// [`FileError`], with the caller's mistake, the limit that was reached or the reason to stop.
    pub fn fetch(self, file: &FileInput) -> Result<LocalFile, FileError> {
        runtime::wait(self.fetching(file)?)
    }

    /// As [`fetch`](Self::fetch), for a handler that runs on an async runtime.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn fetch_async(self, file: &FileInput) -> Result<LocalFile, FileError> {
        runtime::join(self.fetching(file)?).await
    }

    /// Puts several files into the job's temporary folder, eight at a time. Returns them in the order of `files`. The limits hold for
    /// each file. When one cannot be fetched, the others are given up.
    ///
    /// # Errors
    /// The first error of [`fetch`](Self::fetch).
    pub fn fetch_all<'f>(self, files: impl IntoIterator<Item = &'f FileInput>) -> Result<Vec<LocalFile>, FileError> {
        runtime::wait(self.fetching_all(files)?)
    }

    /// As [`fetch_all`](Self::fetch_all), for a handler that runs on an async runtime.
    ///
    /// # Errors
    /// As [`fetch_all`](Self::fetch_all).
    pub async fn fetch_all_async<'f>(
        self,
        files: impl IntoIterator<Item = &'f FileInput>,
    ) -> Result<Vec<LocalFile>, FileError> {
        let fetching = self.fetching_all(files)?;
        runtime::join(fetching).await
    }

    /// Uploads a file to the bucket that the job names in `s3Config`, else to the worker's; without either, to the folder
    /// `simulated_uploaded`. The key is `JOB/NAME`, after the `objectPath` of `s3Config`. Files above 16 MiB are uploaded in parts.
    ///
    /// # Errors
    /// [`FileError`]; an upload that fails for a reason that may pass is attempted three times before.
    pub fn upload(self, file: Upload) -> Result<Uploaded, FileError> {
        runtime::wait(self.uploading(file)?)
    }

    /// As [`upload`](Self::upload), for a handler that runs on an async runtime.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub async fn upload_async(self, file: Upload) -> Result<Uploaded, FileError> {
        runtime::join(self.uploading(file)?).await
    }

    fn context(self) -> Result<Context, FileError> {
        Ok(Context { running: self.job.running(), shared: Shared::of_process()? })
    }

    fn folder(self) -> Result<PathBuf, FileError> {
        let folder = self.job.temp_dir().map_err(FileError::local("the job's temporary folder cannot be created"))?;
        Ok(folder.to_owned())
    }

    fn fetching(self, file: &FileInput) -> Result<Transfer<LocalFile>, FileError> {
        let (context, folder, limits, file) = (self.context()?, self.folder()?, self.limits, file.clone());
        Ok(Box::pin(async move { fetch(&context, &folder, limits, file).await }))
    }

    fn fetching_all<'f>(
        self,
        files: impl IntoIterator<Item = &'f FileInput>,
    ) -> Result<Transfer<Vec<LocalFile>>, FileError> {
        let (context, folder, limits) = (self.context()?, self.folder()?, self.limits);
        let files: Vec<FileInput> = files.into_iter().cloned().collect();
        Ok(Box::pin(async move { fetch_each(&context, &folder, limits, files).await }))
    }

    fn uploading(self, file: Upload) -> Result<Transfer<Uploaded>, FileError> {
        let context = self.context()?;
        let bucket = bucket(self.job, &context.shared)?;
        Ok(Box::pin(async move { upload(&context, bucket.as_ref(), file).await }))
    }
}

/// The job's bucket, else the worker's.
pub(crate) fn bucket<C>(job: &Job<C>, shared: &Shared) -> Result<Option<Bucket>, FileError> {
    match Bucket::of_job(job)? {
        Some(bucket) => Ok(Some(bucket)),
        None => Ok(shared.settings.bucket()?.cloned()),
    }
}

async fn fetch_each(
    context: &Context,
    folder: &Path,
    limits: Limits,
    files: Vec<FileInput>,
) -> Result<Vec<LocalFile>, FileError> {
    let fetches = files.into_iter().map(|file| fetch(context, folder, limits, file));
    stream::iter(fetches).buffered(PARALLEL).try_collect().await
}
