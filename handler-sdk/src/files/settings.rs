//! The settings of files, from the worker's environment.

use ipnet::{Ipv4Net, Ipv6Net};
use runpod_address_guard::{Guard, network};

use super::bucket::Bucket;
use super::http::Reach;
use crate::file_error::FileError;
use crate::text::log;

/// Most bytes of a download; the variable and the default are those of the official package.
pub(crate) const MAX_DOWNLOAD: &str = "RUNPOD_MAX_DOWNLOAD_BYTES";
/// Whether downloads may reach private addresses.
pub(crate) const ALLOW_PRIVATE: &str = "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS";
/// Outputs above this size are uploaded.
pub(crate) const UPLOAD_ABOVE: &str = "RUNPOD_UPLOAD_OUTPUT_ABOVE_BYTES";

const DEFAULT_MAX_DOWNLOAD: u64 = 5 * 1024 * 1024 * 1024;

/// Largest result of `/run` that RunPod takes. Its documentation says MB, its error texts say MiB: the smaller one is safe.
/// (<https://docs.runpod.io/serverless/workers/handler-functions>)
const RUN_OUTPUT: u64 = 10_000_000;
/// Largest result of `/runsync`.
const RUNSYNC_OUTPUT: u64 = 20_000_000;
/// How the ids of `/runsync` jobs begin.
const RUNSYNC_ID: &str = "sync-";

/// The validated settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) reach: Reach,
    pub(crate) max_download: u64,
    /// The worker's bucket, if there is one. Incomplete settings are an error when they are needed.
    bucket: Result<Option<Bucket>, String>,
    /// `None` for the limits of the platform, 0 for never.
    upload_above: Option<u64>,
}

impl Settings {
    /// Reads the settings. A value of the wrong form is logged, and the default is used.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let number = |name: &str| {
            let text = variable(name)?;
            let parsed = text.parse::<u64>();
            if parsed.is_err() {
                log(format_args!("{name} is {text:?}, which is not a number of bytes: the default is used"));
            }
            parsed.ok()
        };
        Self {
            reach: reach(variable(ALLOW_PRIVATE).as_deref().unwrap_or_default()),
            max_download: number(MAX_DOWNLOAD).filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_MAX_DOWNLOAD),
            bucket: Bucket::from_environment(variable),
            upload_above: number(UPLOAD_ABOVE),
        }
    }

    /// The worker's bucket, or `None` when there is none.
    pub(crate) fn bucket(&self) -> Result<Option<&Bucket>, FileError> {
        match &self.bucket {
            Ok(bucket) => Ok(bucket.as_ref()),
            Err(problem) => Err(FileError::BucketSettings(problem.clone())),
        }
    }

    /// Above which size the output of a job is uploaded, in bytes of JSON; `None` for never.
    pub(crate) fn upload_above(&self, job: &str) -> Option<u64> {
        match self.upload_above {
            Some(0) => None,
            Some(limit) => Some(limit),
            None if job.starts_with(RUNSYNC_ID) => Some(RUNSYNC_OUTPUT),
            None => Some(RUN_OUTPUT),
        }
    }
}

/// Which addresses downloads may reach, by `RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS`: for a handler that makes requests of its own to URLs
/// that clients choose.
pub fn download_guard() -> Guard {
    guard_of(reach(std::env::var(ALLOW_PRIVATE).unwrap_or_default().trim()))
}

fn guard_of(reach: Reach) -> Guard {
    match reach {
        Reach::Everywhere => Guard::new(&[Ipv4Net::default().into(), Ipv6Net::default().into()]),
        Reach::Guarded(guard) => guard,
    }
}

/// `1`, `true` or `yes` as in the official package, or a list of networks.
fn reach(text: &str) -> Reach {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => return Reach::Everywhere,
        "" | "0" | "false" | "no" => return Reach::Guarded(Guard::default()),
        _ => {}
    }
    let networks: Result<Vec<_>, _> = text.split(',').map(network).collect();
    let networks = networks.unwrap_or_else(|_| {
        log(format_args!(
            "{ALLOW_PRIVATE} is {text:?}, which is neither true nor a list of networks such as 10.0.0.0/8,fd00::/8: private \
             addresses stay forbidden"
        ));
        Vec::new()
    });
    Reach::Guarded(Guard::new(&networks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_limit_without_meaning_is_the_default() {
        for text in ["", "0", "-5", "many"] {
            assert_eq!(settings(&[(MAX_DOWNLOAD, text)]).max_download, DEFAULT_MAX_DOWNLOAD, "{text:?}");
        }
        assert_eq!(settings(&[(MAX_DOWNLOAD, " 1000 ")]).max_download, 1000);
    }

    #[test]
    fn private_addresses_are_allowed_as_a_whole_or_by_network() {
        let permits =
            |text: &str, ip: &str| guard_of(settings(&[(ALLOW_PRIVATE, text)]).reach).permits(ip.parse().unwrap());
        for text in ["1", "true", "YES"] {
            assert!(permits(text, "127.0.0.1") && permits(text, "fd00::1"), "{text}");
        }
        for text in ["", "0", "false", "on", "10.0.0.0"] {
            assert!(!permits(text, "10.0.0.1"), "{text}");
        }
        assert!(permits("10.0.0.0/8, fd00::/8", "fd00::1") && permits("10.0.0.0/8, fd00::/8", "10.1.1.1"));
        assert!(!permits("10.0.0.0/8", "169.254.169.254"));
    }

    #[test]
    fn the_limit_of_outputs_is_that_of_the_platform_or_the_operators() {
        let limits = |text: &str| {
            let settings = settings(&[(UPLOAD_ABOVE, text)]);
            (settings.upload_above("a-u1"), settings.upload_above("sync-a-u1"))
        };
        assert_eq!(limits(""), (Some(10_000_000), Some(20_000_000)));
        assert_eq!(limits("500"), (Some(500), Some(500)));
        assert_eq!(limits("0"), (None, None));
    }

    #[test]
    fn a_bucket_needs_all_of_its_three_variables() {
        let all = [
            ("BUCKET_ENDPOINT_URL", "https://s3.example"),
            ("BUCKET_ACCESS_KEY_ID", "id"),
            ("BUCKET_SECRET_ACCESS_KEY", "hunter22"),
        ];
        assert!(settings(&all).bucket().unwrap().is_some());
        assert!(settings(&[]).bucket().unwrap().is_none());
        assert!(settings(&[("BUCKET_NAME", "x")]).bucket().unwrap().is_none());
        let error = settings(&all[..2]).bucket().unwrap_err().to_string();
        assert_eq!(
            error,
            "the bucket's settings are incomplete: BUCKET_SECRET_ACCESS_KEY is not set. Set it, or none of the BUCKET_* variables"
        );
        let error =
            settings(&[("BUCKET_ENDPOINT_URL", "s3.example"), all[1], all[2]]).bucket().unwrap_err().to_string();
        assert!(error.starts_with("BUCKET_ENDPOINT_URL is not an http:// or https:// URL"), "{error}");
    }
}
