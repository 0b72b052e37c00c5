//! The settings of an overflow: `overflow = { … }` of an endpoint in the configuration file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Deserializer};

use super::limits::{SHORTEST_SILENCE, STOP_TIME};
use super::spending::Price;
use crate::api::is_id;
use crate::secret::Secret;

const MAX_IN_FLIGHT: usize = 1000;
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why an overflow cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverflowError {
    /// The file of the key.
    #[error("`overflow.key_file`: cannot read {}: {error}; give the path of a file that holds the key", .path.display())]
    KeyFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// No key where it was promised.
    #[error("`overflow.{0}`: there is no key; set it, or leave the setting out")]
    NoKey(String),
    /// Not a header.
    #[error("the key of `overflow` contains characters that no HTTP header can carry: check key_file or key_env")]
    Key,
    /// The HTTP client.
    #[error(
        "the HTTP client of `overflow` cannot start: {0}; check the proxy and certificate settings of this machine"
    )]
    Client(#[source] reqwest::Error),
}

/// As it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverflowConfig {
    /// `https://api.runpod.ai/v2/<endpoint id>`, or another endpoint with RunPod's client API.
    #[serde(deserialize_with = "url")]
    url: Url,
    /// A job that has waited for this long is sent there.
    #[serde(deserialize_with = "time")]
    pub(crate) after: Duration,
    /// Jobs there at once.
    #[serde(default = "default_max_in_flight")]
    max_in_flight: usize,
    /// A job comes back when nothing was heard of it for this long.
    #[serde(default = "default_lost_after", deserialize_with = "time")]
    lost_after: Duration,
    /// The price of one worker there, in dollars.
    price_per_hour: Option<f64>,
    /// What the jobs of an hour may cost there.
    max_dollars_per_hour: Option<f64>,
    /// A file that holds the API key.
    key_file: Option<PathBuf>,
    /// The environment variable that holds the API key.
    key_env: Option<String>,
}

fn default_max_in_flight() -> usize {
    10
}

fn default_lost_after() -> Duration {
    Duration::from_secs(60)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    humantime::parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The message does not repeat the URL: there may be a key in it.
fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let fits = |url: &Url| {
        let has_key = url.query().is_some() || !url.username().is_empty() || url.password().is_some();
        matches!(url.scheme(), "http" | "https") && url.has_host() && !has_key && url.fragment().is_none()
    };
    let url = Url::parse(String::deserialize(deserializer)?.trim_end_matches('/')).ok().filter(fits);
    let url = url.ok_or_else(|| {
        serde::de::Error::custom(
            "`overflow.url` must be http(s)://host/v2/<endpoint id>, with the key in `key_file` or `key_env`",
        )
    })?;
    if names_endpoint(&url) {
        Ok(url)
    } else {
        let origin = url.origin().ascii_serialization();
        Err(serde::de::Error::custom(format!(
            "`overflow.url` names no endpoint: it must end in /v2/<endpoint id>, such as {origin}/v2/my-endpoint"
        )))
    }
}

/// Whether the path is that of an endpoint. A proxy may have put something before it.
fn names_endpoint(url: &Url) -> bool {
    let Some(segments) = url.path_segments() else { return false };
    let mut last = segments.rev();
    last.next().is_some_and(is_id) && last.next() == Some("v2")
}

impl OverflowConfig {
    /// What is wrong with the values, and how to mend it.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        let is_price = |price: Option<f64>| price.is_none_or(|price| price.is_finite() && price > 0.0);
        if self.after > WEEK {
            return Some("`overflow.after` must be at most 7d");
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.max_in_flight) {
            return Some("`overflow.max_in_flight` must be 1 to 1000");
        }
        if !(SHORTEST_SILENCE..=WEEK).contains(&self.lost_after) {
            return Some("`overflow.lost_after` must be 3s to 7d: no request waits for less than 3s");
        }
        if !is_price(self.price_per_hour) || !is_price(self.max_dollars_per_hour) {
            return Some("`overflow.price_per_hour` and `overflow.max_dollars_per_hour` must be greater than 0");
        }
        if self.max_dollars_per_hour.is_some() && self.price_per_hour.is_none() {
            return Some(
                "`overflow.max_dollars_per_hour` needs `overflow.price_per_hour`, the price of one worker there",
            );
        }
        (self.key_file.is_some() && self.key_env.is_some())
            .then_some("`overflow.key_file` and `overflow.key_env` exclude each other: remove one")
    }

    /// Whether the money of an hour is not enough for one job that may run for `run_time`.
    pub(crate) fn affords_none(&self, run_time: Duration) -> bool {
        let (Some(price), Some(max)) = (self.price_per_hour, self.max_dollars_per_hour) else { return false };
        Price(price).buys(max) < run_time.saturating_add(STOP_TIME)
    }

    /// Whether jobs would be sent to the endpoint that they come from.
    pub(crate) fn leads_to(&self, bind: SocketAddr, endpoint: &str) -> bool {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = match host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || ip.is_unspecified() || ip == bind.ip(),
            Err(_) => host == "localhost",
        };
        is_here
            && self.url.port_or_known_default() == Some(bind.port())
            && self.url.path_segments().and_then(|mut path| path.next_back()) == Some(endpoint)
    }

    /// The values by name, for `--check-config`. The key is not among them.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let time = |time| humantime::format_duration(time).to_string();
        let number = |number: Option<f64>| number.map(|number| number.to_string());
        let key = self.key_file.as_ref().map(|path| path.display().to_string()).or_else(|| self.key_env.clone());
        [
            ("overflow-url", Some(self.url.to_string())),
            ("overflow-after", Some(time(self.after))),
            ("overflow-max-in-flight", Some(self.max_in_flight.to_string())),
            ("overflow-lost-after", Some(time(self.lost_after))),
            ("overflow-price-per-hour", number(self.price_per_hour)),
            ("overflow-max-dollars-per-hour", number(self.max_dollars_per_hour)),
            ("overflow-key-from", key),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, runpod_log_line::printable(&value?).into_owned())))
        .collect()
    }

    /// Reads the key.
    ///
    /// # Errors
    /// When there is none where it should be.
    pub fn open(&self) -> Result<OverflowSettings, OverflowError> {
        let (name, text) = match (&self.key_file, &self.key_env) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| OverflowError::KeyFile { path: path.clone(), error })?;
                ("key_file".to_owned(), Some(text))
            }
            (None, Some(variable)) => {
                let text = std::env::var(variable).unwrap_or_default();
                (format!("key_env = {variable:?}"), Some(text))
            }
            (None, None) => (String::new(), None),
        };
        let key = text.map(|text| Secret::from(&*text));
        if key.as_ref().is_some_and(|key| key.expose().is_empty()) {
            return Err(OverflowError::NoKey(name));
        }
        Ok(OverflowSettings {
            url: self.url.clone(),
            key,
            after: self.after,
            max_in_flight: self.max_in_flight,
            lost_after: self.lost_after,
            price: self.price_per_hour.map(Price),
            max_dollars_per_hour: self.max_dollars_per_hour,
        })
    }
}

/// Where late jobs of one endpoint go. Made by [`OverflowConfig::open`].
#[derive(Debug, Clone)]
pub struct OverflowSettings {
    pub(super) url: Url,
    pub(super) key: Option<Secret>,
    pub(super) after: Duration,
    pub(super) max_in_flight: usize,
    pub(super) lost_after: Duration,
    pub(super) price: Option<Price>,
    pub(super) max_dollars_per_hour: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<OverflowConfig, String> {
        let config: OverflowConfig = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        config.mistake().map_or(Ok(config), |mistake| Err(mistake.to_owned()))
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("after = \"1s\"", "url"),
            ("url = \"https://h/v2/e\"", "after"),
            ("url = \"ftp://h/v2/e\"\nafter = \"1s\"", "http(s)"),
            ("url = \"https://u:secret@h/v2/e\"\nafter = \"1s\"", "key_file"),
            ("url = \"https://h/v2/e?key=secret\"\nafter = \"1s\"", "key_file"),
            ("url = \"https://h:8443\"\nafter = \"1s\"", "such as https://h:8443/v2/my-endpoint"),
            ("url = \"https://h/v2\"\nafter = \"1s\"", "must end in /v2/<endpoint id>"),
            ("url = \"https://h/v2/e/run\"\nafter = \"1s\"", "must end in /v2/<endpoint id>"),
            ("url = \"https://h/e\"\nafter = \"1s\"", "must end in /v2/<endpoint id>"),
            ("url = \"https://h/v2/e%20f\"\nafter = \"1s\"", "must end in /v2/<endpoint id>"),
            ("url = \"https://h/v2/e\"\nafter = \"8d\"", "7d"),
            ("url = \"https://h/v2/e\"\nafter = \"1s\"\nmax_in_flight = 0", "1 to 1000"),
            ("url = \"https://h/v2/e\"\nafter = \"1s\"\nlost_after = \"2s\"", "3s to 7d"),
            ("url = \"https://h/v2/e\"\nafter = \"1s\"\nprice_per_hour = -1.0", "greater than 0"),
            ("url = \"https://h/v2/e\"\nafter = \"1s\"\nmax_dollars_per_hour = 1.0", "price_per_hour"),
            ("url = \"https://h/v2/e\"\nafter = \"1s\"\nkey_file = \"f\"\nkey_env = \"V\"", "exclude"),
            ("url = \"https://h/v2/e\"\nafter = \"1s\"\nkey = \"secret\"", "key"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_key_comes_from_a_file_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let text = format!("url = \"https://h/v2/e/\"\nafter = \"20s\"\nkey_file = {:?}", path.display().to_string());
        let config = config(&text).unwrap();
        assert!(matches!(config.open(), Err(OverflowError::KeyFile { .. })));
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(config.open(), Err(OverflowError::NoKey(_))));
        std::fs::write(&path, "hunter2\n").unwrap();
        let settings = config.open().unwrap();
        assert_eq!((settings.key.as_ref().unwrap().expose(), settings.url.as_str()), ("hunter2", "https://h/v2/e"));
        assert!(!format!("{settings:?}{config:?}{:?}", config.settings()).contains("hunter2"));
    }
}
