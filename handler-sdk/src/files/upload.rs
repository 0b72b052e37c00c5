//! Uploads: what a job has made goes to a bucket, or to a local folder when there is none.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Serialize;

use super::bucket::Bucket;
use super::context::Context;
use super::name::{UNNAMED, content_type, safe_name, type_of_name};
use super::s3::{self, Source};
use crate::file_error::FileError;
use crate::text::log;

/// How long a link works: the longest time that S3 signs, and what the official package uses.
const LINK_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where files go without a bucket; the name is that of the official package.
const LOCAL_FOLDER: &str = "simulated_uploaded";

/// A file to upload.
#[derive(Clone, Debug)]
pub struct Upload {
    pub(crate) source: Source,
    name: String,
    content_type: Option<String>,
    lifetime: Duration,
}

impl Upload {
    /// The file at `path`, under its own name.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::new(Source::File(path), &name)
    }

    /// Data in memory, under a name such as `result.png`.
    pub fn bytes(name: &str, data: impl Into<Bytes>) -> Self {
        Self::new(Source::Bytes(data.into()), name)
    }

    fn new(source: Source, name: &str) -> Self {
        let name = safe_name(name).unwrap_or_else(|| UNNAMED.to_owned());
        Self { source, name, content_type: None, lifetime: LINK_LIFETIME }
    }

    /// Another name. Its last component counts. A second file of the same name replaces the first one of the job.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: safe_name(name).unwrap_or_else(|| UNNAMED.to_owned()), ..self }
    }

    /// The content type, such as `image/png`; by default the one that belongs to the ending of the name.
    #[must_use]
    pub fn content_type(self, content_type: &str) -> Self {
        Self { content_type: Some(content_type.to_owned()), ..self }
    }

    /// How long the link works: seven days by default, which is also the longest time that S3 permits.
    #[must_use]
    pub fn link_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime: lifetime.clamp(Duration::from_secs(1), LINK_LIFETIME), ..self }
    }
}

/// An uploaded file, in a form that can be returned as output or part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Uploaded {
    /// A link that anyone can fetch while it works. Without a bucket, the `file://` URL of the file on the worker's machine.
    pub url: String,
    /// The content type that it is served with.
    pub content_type: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Seconds for which the link works, from its creation; absent for a file on the worker's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// Uploads to `bucket`, or to the local folder without one.
pub(crate) async fn upload(context: &Context, bucket: Option<&Bucket>, upload: Upload) -> Result<Uploaded, FileError> {
    let Upload { source, name, content_type: wanted, lifetime } = upload;
    let content_type = wanted.as_deref().and_then(content_type).unwrap_or_else(|| type_of_name(&name));
    let job = &context.running.id;
    let Some(bucket) = bucket else {
        let folder = Path::new(LOCAL_FOLDER).join(safe_name(job).unwrap_or_else(|| "job".to_owned()));
        let (url, bytes) = keep_locally(&folder, &name, source).await?;
        return Ok(Uploaded { url, content_type, bytes, expires_in: None });
    };
    let object = s3::Object { bucket, key: bucket.key(job, &name), content_type: &content_type };
    let (url, bytes) = context.until_stopped(s3::put(&context.shared, object, source, lifetime)).await?;
    Ok(Uploaded { url: url.into(), content_type, bytes, expires_in: Some(lifetime.as_secs()) })
}

async fn keep_locally(folder: &Path, name: &str, source: Source) -> Result<(String, u64), FileError> {
    static NOTED: Once = Once::new();
    const WRITE: &str = "without a bucket files go to the folder `simulated_uploaded`, and this one cannot be written";
    NOTED.call_once(|| {
        log(format_args!(
            "no bucket is set (BUCKET_ENDPOINT_URL, BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY): uploads go to the folder \
             {LOCAL_FOLDER} on this machine"
        ));
    });
    tokio::fs::create_dir_all(folder).await.map_err(FileError::local(WRITE))?;
    let path = folder.join(name);
    let bytes = match source {
        Source::File(from) => tokio::fs::copy(from, &path).await.map_err(FileError::local(WRITE))?,
        Source::Bytes(data) => {
            tokio::fs::write(&path, &data).await.map_err(FileError::local(WRITE))?;
            data.len() as u64
        }
    };
    let path = std::path::absolute(path).map_err(FileError::local(WRITE))?;
    let url = Url::from_file_path(&path).map_or_else(|()| path.display().to_string(), String::from);
    Ok((url, bytes))
}
