//! S3 requests, with the signature in their query: one `PUT`, or a multipart upload for a large file.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use reqwest::{Client, Response, Url};
use rusty_s3::S3Action;
use rusty_s3::actions::{CompleteMultipartUploadResponse, CreateMultipartUpload};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::bucket::Bucket;
use super::context::{Shared, may_pass, tries};
use super::http::{check, text_of};
use crate::file_error::FileError;

/// Above this size a file is uploaded in parts.
pub(crate) const PART: u64 = 16 * 1024 * 1024;
/// Most parts of a file, by S3.
const MAX_PARTS: u64 = 10_000;
/// Parts in flight, each in memory.
const PARALLEL: usize = 4;
/// How long the signature of a request is valid.
const SIGNATURE: Duration = Duration::from_secs(3600);
/// Longest time for one request: 16 MiB at 56 KB/s.
const REQUEST: Duration = Duration::from_secs(300);
/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest error code of S3 that is shown.
const MAX_CODE: usize = 64;

const READ: &str = "the file to upload cannot be read";

/// What is uploaded.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Bytes(Bytes),
}

/// Where a file goes.
pub(crate) struct Object<'a> {
    pub(crate) bucket: &'a Bucket,
    pub(crate) key: String,
    pub(crate) content_type: &'a str,
}

/// Why a request failed.
struct Refused {
    cause: String,
    may_pass: bool,
}

/// Uploads and signs a link to the object. Returns it with the number of bytes.
pub(crate) async fn put(
    shared: &Shared,
    object: Object<'_>,
    source: Source,
    lifetime: Duration,
) -> Result<(Url, u64), FileError> {
    let Object { bucket, key, content_type } = object;
    // The endpoint of the worker's own bucket may be private, that of a job may not.
    let client = if bucket.of_job {
        check(&shared.settings.reach, bucket.endpoint())
            .map_err(|error| FileError::JobBucket(format!("s3Config: {error}")))?;
        &shared.clients.guarded
    } else {
        &shared.clients.trusted
    };
    let signer = bucket.signer()?;
    let session = Session { client, bucket, signer: &signer, key: &key, content_type };
    let len = match &source {
        Source::Bytes(data) => data.len() as u64,
        Source::File(path) => tokio::fs::metadata(path).await.map_err(FileError::local(READ))?.len(),
    };
    if len > PART {
        session.put_parts(&source, len).await?;
    } else {
        session.put_whole(read(&source, 0, len).await?).await?;
    }
    let link = signer.get_object(Some(&bucket.credentials), &key).sign(lifetime);
    Ok((link, len))
}

/// `len` bytes from `offset` on.
async fn read(source: &Source, offset: u64, len: u64) -> Result<Bytes, FileError> {
    match source {
        Source::Bytes(data) => Ok(data.slice(offset as usize..(offset + len) as usize)),
        Source::File(path) => read_file(path, offset, len).await.map_err(FileError::local(READ)),
    }
}

async fn read_file(path: &Path, offset: u64, len: u64) -> std::io::Result<Bytes> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut data = vec![0; len as usize];
    file.read_exact(&mut data).await?;
    Ok(data.into())
}

/// The upload of one object.
struct Session<'a> {
    client: &'a Client,
    bucket: &'a Bucket,
    signer: &'a rusty_s3::Bucket,
    key: &'a str,
    content_type: &'a str,
}

impl Session<'_> {
    async fn put_whole(&self, data: Bytes) -> Result<(), FileError> {
        let url = self.signer.put_object(Some(&self.bucket.credentials), self.key).sign(SIGNATURE);
        self.send(|| {
            let request = self.client.put(url.clone()).header(CONTENT_TYPE, self.content_type);
            answer(request.header(CONTENT_LENGTH, data.len()).body(data.clone()))
        })
        .await?;
        Ok(())
    }

    async fn put_parts(&self, source: &Source, len: u64) -> Result<(), FileError> {
        let credentials = Some(&self.bucket.credentials);
        let create = self.signer.create_multipart_upload(credentials, self.key).sign(SIGNATURE);
        let created =
            self.send(|| answer(self.client.post(create.clone()).header(CONTENT_TYPE, self.content_type))).await?;
        let created = CreateMultipartUpload::parse_response(&text(created).await)
            .map_err(|_| self.failed("the answer to the begin of an upload cannot be read".to_owned()))?;
        let id = created.upload_id();
        let abort = self.signer.abort_multipart_upload(credentials, self.key, id).sign(SIGNATURE);
        let unfinished = Unfinished(Some((self.client.clone(), abort)));

        let part_len = PART.max(len.div_ceil(MAX_PARTS));
        let parts = (0..len.div_ceil(part_len)).map(|index| async move {
            let offset = index * part_len;
            let data = read(source, offset, part_len.min(len - offset)).await?;
            // At most MAX_PARTS.
            let number = u16::try_from(index + 1).unwrap_or(u16::MAX);
            self.put_part(id, number, data).await
        });
        let etags: Vec<String> = stream::iter(parts).buffered(PARALLEL).try_collect().await?;

        let etags = etags.iter().map(String::as_str);
        let complete = self.signer.complete_multipart_upload(credentials, self.key, id, etags.clone()).sign(SIGNATURE);
        let body = self.signer.complete_multipart_upload(credentials, self.key, id, etags).body();
        let completed = self.send(|| answer(self.client.post(complete.clone()).body(body.clone()))).await?;
        // S3 may answer 200 and tell the failure in the body.
        let completed = text(completed).await;
        CompleteMultipartUploadResponse::parse(&completed)
            .map_err(|_| self.failed(format!("the upload could not be completed{}", code(&completed))))?;
        unfinished.finished();
        Ok(())
    }

    async fn put_part(&self, id: &str, number: u16, data: Bytes) -> Result<String, FileError> {
        let credentials = Some(&self.bucket.credentials);
        let url = self.signer.upload_part(credentials, self.key, number, id).sign(SIGNATURE);
        let request = || self.client.put(url.clone()).header(CONTENT_LENGTH, data.len()).body(data.clone());
        let answered = self.send(|| answer(request())).await?;
        let etag = answered.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        etag.map(str::to_owned).ok_or_else(|| self.failed(format!("the answer to part {number} has no ETag")))
    }

    async fn send<F: Future<Output = Result<Response, Refused>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<Response, FileError> {
        tries(request, |refused| refused.may_pass).await.map_err(|refused| self.failed(refused.cause))
    }

    fn failed(&self, cause: String) -> FileError {
        let (bucket, host, of_job) = (self.bucket.name(), self.bucket.host(), self.bucket.of_job);
        FileError::Upload { bucket, host, cause, of_job }
    }
}

/// An upload in parts that has begun. If it is dropped before it is finished, the storage is asked to forget the parts, which it
/// would keep, and charge for.
struct Unfinished(Option<(Client, Url)>);

impl Unfinished {
    fn finished(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((client, abort)) = self.0.take() {
            tokio::spawn(client.delete(abort).timeout(REQUEST).send());
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Response, Refused> {
    let response = request.timeout(REQUEST).send().await.map_err(|error| Refused {
        may_pass: !runpod_address_guard::PrivateAddress::caused(&error),
        cause: text_of(error),
    })?;
    let status = response.status().as_u16();
    if response.status().is_success() {
        return Ok(response);
    }
    let advice = match status {
        301 | 307 => "; set the region of the bucket (BUCKET_REGION) and its own endpoint",
        401 | 403 => "; check the keys of the bucket and what they permit",
        404 => "; check the name of the bucket (BUCKET_NAME, or bucketName in s3Config)",
        _ => "",
    };
    let cause = format!("the storage answered {status}{}{advice}", code(&text(response).await));
    Err(Refused { cause, may_pass: may_pass(status) })
}

/// The begin of an answer.
async fn text(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_ANSWER {
            body.truncate(MAX_ANSWER);
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// The code in an error of S3, such as ` (NoSuchBucket)`. The rest of it can name the access key.
fn code(answer: &str) -> String {
    let code = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let is_code = |code: &&str| code.len() <= MAX_CODE && code.bytes().all(|b| b.is_ascii_alphanumeric());
    code.filter(is_code).map_or_else(String::new, |code| format!(" ({code})"))
}
