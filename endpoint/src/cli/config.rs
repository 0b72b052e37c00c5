//! `--config`: several endpoints in one server.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::args::endpoint_id;
use crate::api::{FairBy, is_reserved_id};
use crate::balancer::BalancerConfig;
use crate::fleet::ScalerRule;
use crate::overflow::OverflowConfig;
use crate::store::Policy;

/// Largest number of retries that can be set.
const MAX_RETRIES: u32 = 100;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}: {error}; check the path of --config", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("{} cannot be read: {}; see the example in the documentation", .path.display(), .error.message())]
    Syntax {
        path: PathBuf,
        #[source]
        error: Box<toml::de::Error>,
    },
    #[error("endpoint {id:?} in {}: {text}", .path.display())]
    Endpoint { path: PathBuf, id: String, text: &'static str },
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Requests to other endpoint ids get 404; otherwise other endpoints are created on first use.
    #[serde(default)]
    pub(crate) only_these: bool,
    #[serde(default)]
    pub(crate) endpoint: Vec<EndpointConfig>,
}

/// One endpoint. Missing values come from the command line, or are the platform's defaults.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointConfig {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "time")]
    execution_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    ttl: Option<Duration>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) lease: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) max_queued: Option<u32>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) retention: Option<Duration>,
    #[serde(default, deserialize_with = "fair_by")]
    pub(crate) fair_by: Option<FairBy>,
    /// Program and arguments of the handler. Without it, only remote workers serve the endpoint.
    #[serde(default)]
    pub(crate) handler: Vec<String>,
    pub(crate) workers_min: Option<u16>,
    pub(crate) workers_max: Option<u16>,
    #[serde(default, deserialize_with = "rule")]
    pub(crate) scaler: Option<ScalerRule>,
    #[serde(default, deserialize_with = "time")]
    pub(crate) idle_timeout: Option<Duration>,
    /// Its workers answer HTTP requests themselves, and there is no queue.
    pub(crate) load_balancer: Option<BalancerConfig>,
    /// Where jobs go that wait for too long.
    pub(crate) overflow: Option<OverflowConfig>,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    humantime::parse_duration(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

fn fair_by<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FairBy>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn rule<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ScalerRule>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Config {
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), error: Box::new(error) })?;
        let mut seen = HashSet::new();
        for endpoint in &config.endpoint {
            let text = endpoint.mistake().or_else(|| (!seen.insert(&endpoint.id)).then_some("appears twice"));
            if let Some(text) = text {
                return Err(ConfigError::Endpoint { path: path.to_owned(), id: endpoint.id.clone(), text });
            }
        }
        Ok(config)
    }
}

impl Config {
    /// The lease that the file sets for an endpoint.
    pub(crate) fn lease(&self, endpoint: &str) -> Option<Duration> {
        self.endpoint.iter().find(|config| config.id == endpoint)?.lease
    }
}

impl EndpointConfig {
    /// The least and the largest number of workers; `default` holds those of the command line.
    pub(crate) fn worker_bounds(&self, default: (u16, u16)) -> (u16, u16) {
        let min = self.workers_min.unwrap_or(default.0.min(self.workers_max.unwrap_or(u16::MAX)));
        (min, self.workers_max.unwrap_or(default.1).max(min).max(1))
    }

    pub(crate) fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy { execution_timeout: self.execution_timeout, ttl: self.ttl.unwrap_or(default.ttl), ..default }
    }

    /// What the file sets for this endpoint, by name.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let time = |time: Option<Duration>| time.map(|time| humantime::format_duration(time).to_string());
        let number = |number: Option<u16>| number.map(|number| number.to_string());
        let handler =
            (!self.handler.is_empty()).then(|| runpod_log_line::printable(&self.handler.join(" ")).into_owned());
        [
            ("handler", handler),
            ("execution-timeout", time(self.execution_timeout)),
            ("ttl", time(self.ttl)),
            ("lease", time(self.lease)),
            ("retries", self.retries.map(|retries| retries.to_string())),
            ("max-queued", self.max_queued.map(|jobs| jobs.to_string())),
            ("retention", time(self.retention)),
            ("fair-by", self.fair_by.as_ref().map(FairBy::to_string)),
            ("workers-min", number(self.workers_min)),
            ("workers-max", number(self.workers_max)),
            ("scaler", self.scaler.map(|rule| rule.to_string())),
            ("idle-timeout", time(self.idle_timeout)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .chain(self.load_balancer.iter().flat_map(BalancerConfig::settings))
        .chain(self.overflow.iter().flat_map(OverflowConfig::settings))
        .collect()
    }

    fn mistake(&self) -> Option<&'static str> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
        let outside =
            |time: Option<Duration>, min| time.is_some_and(|time| time < Duration::from_secs(min) || time > WEEK);
        if is_reserved_id(&self.id) {
            return Some("`id` is a name that RunPod uses for paths of its own: choose another");
        }
        if endpoint_id(&self.id).is_err() {
            return Some("`id` must be 1 to 64 letters, digits, - and _");
        }
        if outside(self.execution_timeout, 5) {
            return Some("`execution_timeout` must be 5s to 7d");
        }
        if outside(self.ttl, 10) {
            return Some("`ttl` must be 10s to 7d");
        }
        if outside(self.lease, 5) {
            return Some("`lease` must be 5s to 7d");
        }
        if self.retries.is_some_and(|retries| retries > MAX_RETRIES) {
            return Some("`retries` must be 0 to 100");
        }
        if self.max_queued == Some(0) {
            return Some("`max_queued` must be at least 1");
        }
        if self.retention.is_some_and(|time| time < Duration::from_secs(10) || time > 365 * DAY) {
            return Some("`retention` must be 10s to 365d");
        }
        if self.workers_max.is_some_and(|max| !(1..=64).contains(&max)) {
            return Some("`workers_max` must be 1 to 64");
        }
        if self.workers_min.is_some_and(|min| min > 64) {
            return Some("`workers_min` must be at most 64");
        }
        if self.workers_min.unwrap_or(0) > self.workers_max.unwrap_or(u16::MAX) {
            return Some("`workers_min` must not exceed `workers_max`");
        }
        if self.idle_timeout.is_some_and(|time| time > WEEK) {
            return Some("`idle_timeout` must be at most 7d");
        }
        let scales = self.workers_min.is_some()
            || self.workers_max.is_some()
            || self.scaler.is_some()
            || self.idle_timeout.is_some();
        if scales && self.handler.is_empty() {
            return Some("workers are scaled only with a `handler` to start");
        }
        if self.load_balancer.is_some() && (self.handler.is_empty() || self.scaler.is_some() || self.overflow.is_some())
        {
            return Some(
                "`load_balancer` needs a `handler`, and excludes `scaler` and `overflow`: it scales by `concurrency`",
            );
        }
        let is_of_queue = self.execution_timeout.is_some()
            || self.ttl.is_some()
            || self.retries.is_some()
            || self.max_queued.is_some()
            || self.retention.is_some()
            || self.fair_by.is_some();
        if self.load_balancer.is_some() && is_of_queue {
            return Some(
                "`load_balancer` has no queue: `execution_timeout`, `ttl`, `retries`, `max_queued`, `retention` and `fair_by` have no \
                 effect; remove them",
            );
        }
        let balancer = self.load_balancer.as_ref().and_then(BalancerConfig::mistake);
        balancer.or_else(|| self.overflow.as_ref().and_then(OverflowConfig::mistake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn endpoints_have_their_own_limits() {
        let config =
            load("[[endpoint]]\nid = \"a\"\nexecution_timeout = \"30s\"\nlease = \"5s\"\n[[endpoint]]\nid = \"b\"");
        let config = config.unwrap();
        assert_eq!(config.endpoint[0].policy().execution_timeout, Some(Duration::from_secs(30)));
        assert_eq!(config.endpoint[1].policy().execution_timeout, None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("[[endpoint]]\nid = \"a b\"", "1 to 64 letters"),
            ("[[endpoint]]\nid = \"pods\"", "RunPod uses"),
            ("[[endpoint]]\nid = \"a\"\nttl = \"1s\"", "10s to 7d"),
            ("[[endpoint]]\nid = \"a\"\n[[endpoint]]\nid = \"a\"", "twice"),
            ("[[endpoint]]\nid = \"a\"\nmax_queued = 0", "at least 1"),
            ("[[endpoint]]\nid = \"a\"\nretention = \"5s\"", "10s to 365d"),
            ("[[endpoint]]\nid = \"a\"\nfair_by = \"user\"", "input.user"),
            ("[[endpoint]]\nid = \"a\"\nworkers_max = 2", "handler"),
            ("[[endpoint]]\nid = \"a\"\nidle_timeout = \"5s\"", "handler"),
            ("[[endpoint]]\nid = \"a\"\nworkers_max = 0\nhandler = [\"h\"]", "1 to 64"),
            ("[[endpoint]]\nid = \"a\"\nworkers_min = 100\nhandler = [\"h\"]", "at most 64"),
            ("[[endpoint]]\nid = \"a\"\nworkers_min = 3\nworkers_max = 2\nhandler = [\"h\"]", "exceed"),
            ("[[endpoint]]\nid = \"a\"\nscaler = \"cpu\"", "queue-delay"),
            ("[[endpoint]]\nid = \"a\"\ntimeout = \"1s\"", "timeout"),
            ("[[endpoint]]\nid = \"a\"\nload_balancer = { bind = \"127.0.0.1:1\" }", "needs a `handler`"),
            (
                "[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nload_balancer = { bind = \"127.0.0.1:1\", concurrency = 0 }",
                "1 to 10000",
            ),
            (
                "[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nload_balancer = { bind = \"127.0.0.1:1\", max_wait = \"0s\" }",
                "1s to 1h",
            ),
            (
                "[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nttl = \"1h\"\nload_balancer = { bind = \"127.0.0.1:1\" }",
                "no queue",
            ),
            ("[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nidle_timeout = \"1000y\"", "at most 7d"),
            ("[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nscaler = \"queue-delay=1000y\"", "at most 7d"),
            ("[[endpoint]]\nid = \"a\"\noverflow = { url = \"https://h/v2/e\", after = \"8d\" }", "7d"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }
}
