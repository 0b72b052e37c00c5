//! Files that jobs name, and files that jobs return (feature `files`).
//!
//! An input field of the type [`FileInput`] takes a URL, a data URL or base64. [`Job::files`] downloads it into the job's temporary
//! folder, and uploads what the job has made to a bucket:
//!
//! ```no_run,standalone_crate
//! use runpod_handler_sdk::files::{FileInput, Upload, Uploaded};
//! use runpod_handler_sdk::{HandlerError, Job, NoChunks};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Input {
//!     image: FileInput,
//! }
//!
//! fn run(input: Input, job: &Job<NoChunks>) -> Result<Uploaded, HandlerError> {
//!     let image = job.files().max_bytes(20 * 1024 * 1024).fetch(&input.image)?;
//!     let pixels = std::fs::read(image.path())?;
//!     Ok(job.files().upload(Upload::bytes("result.png", pixels))?)
//! }
//! ```
//!
//! # Downloads
//!
//! Clients choose the URLs, so only public addresses are reached: each address is checked after the name was resolved, the connection
//! goes to the address that was checked, and each redirect is checked again. A download is bounded in size and time, and it ends when
//! its job ends.
//!
//! A handler that makes requests of its own to URLs that clients choose takes the rule from [`download_guard`] and the resolver that
//! enforces it from [`address_guard`]; the example `http-fan-out` shows how.
//!
//! # Uploads
//!
//! The bucket is the one that the job names in `s3Config`, else the one of the worker's environment. Without either, files go to the
//! folder `simulated_uploaded`. The guide `docs/handlers.md` lists the variables.
//!
//! # Large outputs
//!
//! RunPod refuses a result above its limit, after the GPU time was spent. If there is a bucket, an output above the limit is uploaded
//! as `output.json`, and the job's output is then `{"output_file": {"url": …, "content_type": "application/json", "bytes": …,
//! "expires_in": …}}`.

mod base64;
mod bucket;
mod context;
mod data_url;
mod download;
mod http;
mod input;
mod job_files;
mod large_output;
mod name;
mod runtime;
mod s3;
mod settings;
#[cfg(test)]
mod tests;
mod upload;

pub use runpod_address_guard as address_guard;

pub use self::base64::{from_base64, to_base64};
pub use self::data_url::to_data_url;
pub use self::download::LocalFile;
pub use self::input::FileInput;
pub use self::job_files::JobFiles;
pub(crate) use self::large_output::{Encoded, encode_or_upload};
pub use self::settings::download_guard;
pub use self::upload::{Upload, Uploaded};
pub use crate::file_error::FileError;
#[cfg(doc)]
use crate::job::Job;
