//! Which bucket: that of the job, else that of the worker.

use jiff::Timestamp;
use reqwest::Url;
use rusty_s3::{Credentials, UrlStyle};
use serde::Deserialize;

use super::http::host_of;
use super::name::safe_name;
use crate::error::HandlerError;
use crate::file_error::FileError;
use crate::job::Job;
use crate::secret::Secret;

const ENDPOINT: &str = "BUCKET_ENDPOINT_URL";
const KEY_ID: &str = "BUCKET_ACCESS_KEY_ID";
const SECRET: &str = "BUCKET_SECRET_ACCESS_KEY";
const NAME: &str = "BUCKET_NAME";
const REGION: &str = "BUCKET_REGION";

/// The region of storage that has none: S3's first one, which most servers take for any.
const DEFAULT_REGION: &str = "us-east-1";

/// A bucket and how to reach it.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    endpoint: Url,
    pub(crate) credentials: Credentials,
    /// `None` for the bucket of the month, as in the official package.
    name: Option<String>,
    region: String,
    /// What all keys begin with.
    prefix: Vec<String>,
    /// The job names it, so it is not to be trusted.
    pub(crate) of_job: bool,
}

/// The job's `s3Config`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct S3Config {
    access_id: String,
    access_secret: Secret,
    bucket_name: String,
    endpoint_url: String,
    #[serde(default)]
    object_path: Option<String>,
}

impl Bucket {
    /// The worker's bucket. `None` when no variable of its three is set.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let [endpoint, key_id, secret] = [ENDPOINT, KEY_ID, SECRET].map(|name| variable(name).ok_or(name));
        let (endpoint, key_id, secret) = match (endpoint, key_id, secret) {
            (Ok(endpoint), Ok(key_id), Ok(secret)) => (endpoint, key_id, secret),
            (Err(_), Err(_), Err(_)) => return Ok(None),
            (Err(missing), ..) | (_, Err(missing), _) | (.., Err(missing)) => {
                return Err(format!(
                    "the bucket's settings are incomplete: {missing} is not set. Set it, or none of the BUCKET_* variables"
                ));
            }
        };
        let endpoint = parse_endpoint(&endpoint).ok_or_else(|| not_a_url(ENDPOINT))?;
        Ok(Some(Self {
            credentials: Credentials::new(key_id, secret),
            name: variable(NAME),
            region: variable(REGION).unwrap_or_else(|| region_of(&endpoint)),
            endpoint,
            prefix: Vec::new(),
            of_job: false,
        }))
    }

    /// The bucket that the job names in `s3Config`.
    pub(crate) fn of_job<C>(job: &Job<C>) -> Result<Option<Self>, FileError> {
        let config: Option<S3Config> =
            job.field("s3Config").map_err(|error: HandlerError| FileError::JobBucket(error.message().to_owned()))?;
        let Some(config) = config else { return Ok(None) };
        let endpoint = parse_endpoint(&config.endpoint_url)
            .ok_or_else(|| FileError::JobBucket(not_a_url("s3Config.endpointUrl")))?;
        for (field, value) in [("accessId", &config.access_id), ("bucketName", &config.bucket_name)] {
            if value.is_empty() {
                return Err(FileError::JobBucket(format!("s3Config.{field}: must not be empty")));
            }
        }
        let path = config.object_path.unwrap_or_default();
        Ok(Some(Self {
            credentials: Credentials::new(config.access_id, config.access_secret.expose().as_str()),
            name: Some(config.bucket_name),
            region: region_of(&endpoint),
            endpoint,
            prefix: path.split('/').filter_map(safe_name).collect(),
            of_job: true,
        }))
    }

    /// The key of a file of a job. A job that runs again replaces its files.
    pub(crate) fn key(&self, job: &str, name: &str) -> String {
        let mut parts = self.prefix.clone();
        parts.push(safe_name(job).unwrap_or_else(|| "job".to_owned()));
        parts.push(name.to_owned());
        parts.join("/")
    }

    /// The bucket's name.
    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| Timestamp::now().strftime("%m-%y").to_string())
    }

    /// The host of the storage, for errors.
    pub(crate) fn host(&self) -> String {
        host_of(&self.endpoint)
    }

    /// The URL of the storage.
    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// The signer of requests. In the path style a bucket may also stand in the endpoint's host, as RunPod's documentation shows it.
    pub(crate) fn signer(&self) -> Result<rusty_s3::Bucket, FileError> {
        rusty_s3::Bucket::new(self.endpoint.clone(), UrlStyle::Path, self.name(), self.region.clone())
            .map_err(|_| FileError::BucketSettings(not_a_url(ENDPOINT)))
    }
}

fn parse_endpoint(text: &str) -> Option<Url> {
    Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn not_a_url(name: &str) -> String {
    format!("{name} is not an http:// or https:// URL, for example https://s3.eu-west-1.amazonaws.com")
}

/// The region in the host of the storage: the official package knows the first form and, with a mistake, DigitalOcean's.
fn region_of(endpoint: &Url) -> String {
    let host = endpoint.host_str().unwrap_or_default();
    let label = |text: &str| text.split('.').next().unwrap_or_default().to_owned();
    let region = if let Some((_, rest)) =
        host.split_once(".s3.").or_else(|| host.split_once("s3.").filter(|(before, _)| before.is_empty()))
    {
        // `s3.example.org` and `s3.amazonaws.com` name no region.
        if rest.matches('.').count() >= 2 { label(rest) } else { String::new() }
    } else if host.ends_with(".digitaloceanspaces.com") {
        let before = host.trim_end_matches(".digitaloceanspaces.com");
        before.rsplit('.').next().unwrap_or_default().to_owned()
    } else if let Some(rest) = host.strip_prefix("s3api-").filter(|_| host.ends_with(".runpod.io")) {
        label(rest).to_ascii_uppercase()
    } else if host.ends_with(".r2.cloudflarestorage.com") {
        "auto".to_owned()
    } else {
        String::new()
    };
    if region.is_empty() { DEFAULT_REGION.to_owned() } else { region }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_the_host() {
        for (endpoint, region) in [
            ("https://my-bucket.s3.us-west-2.amazonaws.com", "us-west-2"),
            ("https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
            ("https://s3.amazonaws.com", "us-east-1"),
            ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
            ("https://nyc3.digitaloceanspaces.com", "nyc3"),
            ("https://my-bucket.nyc3.digitaloceanspaces.com", "nyc3"),
            ("https://s3api-eu-ro-1.runpod.io/", "EU-RO-1"),
            ("https://abc.r2.cloudflarestorage.com", "auto"),
            ("http://127.0.0.1:9000", "us-east-1"),
            ("http://minio:9000", "us-east-1"),
        ] {
            assert_eq!(region_of(&Url::parse(endpoint).unwrap()), region, "{endpoint}");
        }
    }

    #[test]
    fn a_bucket_of_the_month_has_the_name_that_the_official_package_gives_it() {
        let set = |name: &str| {
            Some(if name == ENDPOINT { "https://s3.example" } else { "x" }.to_owned()).filter(|_| name != NAME)
        };
        let bucket = Bucket::from_environment(set).unwrap().unwrap();
        let name = bucket.name();
        let (month, year) = name.split_once('-').unwrap();
        assert!((1..=12).contains(&month.parse::<u8>().unwrap()) && month.len() == 2 && year.len() == 2, "{name}");
        assert_eq!(bucket.key("../a/b", "c.png"), "b/c.png");
    }
}
