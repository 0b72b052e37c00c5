//! One result as it lies in a file.
//!
//! ```text
//! runpod-result 1 crc32=89abcdef\n
//! {"job":"…","owner":"…","worker":"…","queue":"…","time_ms":…,"attempt":1,"streamed":false}\n
//! <the body to post, exactly as it is>
//! ```
//!
//! The checksum covers everything after the first line. There is no URL and no key in it: where and how to post is settled
//! when it is posted, under the id of the worker that ran the job.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::queue::{PostReply, ResultBody, ResultSink, without_stop_pod};
use runpod_worker_core::JobId;

/// Format of the files.
const VERSION: u32 = 1;

const MAGIC: &str = "runpod-result ";

/// Longest first and second line together: a job id is at most as long as a URL may be.
const MAX_HEADER: usize = 256 * 1024;

/// A final result that can be posted at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its job.
    pub job: JobId,
    /// The handler streams; the result is posted with this flag.
    pub streamed: bool,
    /// Posts begun before it was written to disk.
    pub attempt: u32,
    /// When the job had finished, in milliseconds since 1970.
    pub time_ms: u64,
    /// The job-done body.
    pub body: ResultBody,
    /// Who ran the job, for a result that was read from a file; `None` for a result of this worker.
    pub origin: Option<Origin>,
}

/// Who ran a job, and whose job it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Id of the worker, under which the result is posted.
    pub worker: String,
    /// A name of the queue that tells queues apart and gives no address away; empty when it is not known.
    pub queue: String,
}

impl Origin {
    /// That worker on the queue with this job-done template. What follows the path is no part of a queue's name: it may say
    /// what GPU the worker has.
    pub fn new(worker: &str, template: &str) -> Self {
        let address = template.trim().split(['?', '#']).next().unwrap_or_default();
        let queue = format!("{:08x}-{}", crc32fast::hash(address.as_bytes()), address.len());
        Self { worker: worker.to_owned(), queue }
    }
}

/// Why a file is not a result of this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Something else altogether.
    #[error("it is not a result")]
    Foreign,
    /// Written by another release.
    #[error("its format is {0}, this worker reads {VERSION}")]
    Version(u32),
    /// Cut off or damaged.
    #[error("it is torn: its checksum does not fit")]
    Torn,
    /// Written by another worker.
    #[error("it belongs to another worker")]
    Owner,
}

#[derive(Serialize, Deserialize)]
struct Header {
    job: String,
    owner: String,
    /// Files of earlier releases name neither.
    #[serde(default)]
    worker: String,
    #[serde(default)]
    queue: String,
    time_ms: u64,
    attempt: u32,
    streamed: bool,
}

impl Record {
    /// How long ago the job finished; zero when the clock was set back since.
    pub fn age(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.time_ms))
    }

    /// Posts it, under the id of the worker that ran the job.
    pub(in crate::outbox) async fn post<S: ResultSink>(&self, sink: &S) -> PostReply {
        match &self.origin {
            Some(Origin { worker, .. }) => {
                sink.post_final_of(worker, &self.job, self.body.clone(), self.streamed).await
            }
            None => sink.post_final(&self.job, self.body.clone(), self.streamed).await,
        }
    }

    /// The lines before the body. `own` is the origin of results that were not read from a file.
    pub(super) fn header(&self, owner: &str, own: &Origin) -> Vec<u8> {
        let Origin { worker, queue } = self.origin.as_ref().unwrap_or(own).clone();
        let header = Header {
            job: self.job.as_str().to_owned(),
            owner: owner.to_owned(),
            worker,
            queue,
            time_ms: self.time_ms,
            attempt: self.attempt,
            streamed: self.streamed,
        };
        // A struct of strings and numbers always has a JSON form, so the fallback is never seen.
        let mut line = serde_json::to_vec(&header).unwrap_or_default();
        line.push(b'\n');
        let mut sum = crc32fast::Hasher::new();
        sum.update(&line);
        self.body.parts().for_each(|part| sum.update(part));
        let mut text = format!("{MAGIC}{VERSION} crc32={:08x}\n", sum.finalize()).into_bytes();
        text.append(&mut line);
        text
    }

    /// Reads a file back. The request for a fresh worker is removed from the body: by the time the result is posted, this is one.
    ///
    /// # Errors
    /// When it is not a whole result of this owner.
    pub fn decode(file: Vec<u8>, owner: &str) -> Result<Self, RecordError> {
        let file = Bytes::from(file);
        let (sum, begin) = first_line(&file)?;
        if sum != Some(crc32fast::hash(&file[begin..])) {
            return Err(RecordError::Torn);
        }
        let (header, body) = second_line(&file, begin, owner)?;
        let origin = header.origin();
        Ok(Self {
            job: header.job.into(),
            streamed: header.streamed,
            attempt: header.attempt,
            time_ms: header.time_ms,
            body: without_stop_pod(&file.slice(body..)).into(),
            origin: (!origin.worker.is_empty()).then_some(origin),
        })
    }

    /// Who ran the job and whose it is, from the first two lines alone, so that the checksum may still not fit.
    ///
    /// # Errors
    /// When they are not those of a result of this owner; [`RecordError::Torn`] when they are not whole.
    pub(super) fn origin_of(head: &[u8], owner: &str) -> Result<Origin, RecordError> {
        let (_, begin) = first_line(head)?;
        second_line(head, begin, owner).map(|(header, _)| header.origin())
    }
}

impl Header {
    fn origin(&self) -> Origin {
        Origin { worker: self.worker.clone(), queue: self.queue.clone() }
    }
}

/// The first two lines of a file, or as much of it as they may need at most.
pub(super) fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    let most = u64::try_from(MAX_HEADER).unwrap_or(u64::MAX);
    let mut file = BufReader::new(File::open(path)?.take(most));
    let mut head = Vec::new();
    for _ in 0..2 {
        file.read_until(b'\n', &mut head)?;
    }
    Ok(head)
}

/// The checksum, and where the second line begins.
fn first_line(file: &[u8]) -> Result<(Option<u32>, usize), RecordError> {
    let magic = MAGIC.as_bytes();
    let end = line(file, 0).ok_or(if file.starts_with(magic) || magic.starts_with(file) {
        RecordError::Torn
    } else {
        RecordError::Foreign
    })?;
    let words = std::str::from_utf8(&file[..end]).ok().and_then(|text| text.strip_prefix(MAGIC));
    let (version, sum) = words.and_then(|words| words.split_once(' ')).ok_or(RecordError::Foreign)?;
    let version = version.parse().map_err(|_| RecordError::Foreign)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    Ok((sum.strip_prefix("crc32=").and_then(|sum| u32::from_str_radix(sum, 16).ok()), end + 1))
}

/// The header, and where the body begins.
fn second_line(file: &[u8], begin: usize, owner: &str) -> Result<(Header, usize), RecordError> {
    let end = line(file, begin).ok_or(RecordError::Torn)?;
    let header: Header = serde_json::from_slice(&file[begin..end]).map_err(|_| RecordError::Foreign)?;
    if header.owner == owner { Ok((header, end + 1)) } else { Err(RecordError::Owner) }
}

/// Index of the next line's end.
fn line(file: &[u8], from: usize) -> Option<usize> {
    file.iter().skip(from).take(MAX_HEADER).position(|byte| *byte == b'\n').map(|at| from + at)
}

/// Milliseconds since 1970.
pub(in crate::outbox) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(body: &'static str) -> Vec<u8> {
        let record =
            Record { job: "j-1".into(), streamed: true, attempt: 1, time_ms: 7, body: body.into(), origin: None };
        [
            record.header("w1", &Origin::new("w 1", "http://h/job-done/$RUNPOD_POD_ID/$ID?gpu=A")).as_slice(),
            body.as_bytes(),
        ]
        .concat()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let record = Record::decode(file("{\"output\":\"\n\"}"), "w1").unwrap();
        assert_eq!((record.job.as_str(), record.streamed, record.attempt, record.time_ms), ("j-1", true, 1, 7));
        assert_eq!(record.body.whole(), "{\"output\":\"\n\"}");
        let origin = Origin::new("w 1", "http://h/job-done/$RUNPOD_POD_ID/$ID?gpu=B");
        assert_eq!(record.origin, Some(origin), "the same queue, whatever the GPU");
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let whole = file("{\"output\":1}");
        for len in 0..whole.len() {
            assert_eq!(Record::decode(whole[..len].to_vec(), "w1"), Err(RecordError::Torn), "cut at {len}");
        }
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 1;
            assert!(Record::decode(changed, "w1").is_err(), "changed at {index}");
        }
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        assert_eq!(Record::decode(b"hello\nworld".to_vec(), "w1"), Err(RecordError::Foreign));
        assert_eq!(Record::decode(b"hello".to_vec(), "w1"), Err(RecordError::Foreign));
        assert_eq!(Record::decode(b"runpod-result 2 x\n".to_vec(), "w1"), Err(RecordError::Version(2)));
        assert_eq!(Record::decode(file("1"), "w2"), Err(RecordError::Owner));
    }
}
