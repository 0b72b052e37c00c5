//! The settings of load balancing: `load_balancer = { … }` of an endpoint in the configuration file.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

const MAX_CONCURRENCY: usize = 10_000;
const MIN_WAIT: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// As it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BalancerConfig {
    /// Where its requests arrive.
    pub(crate) bind: SocketAddr,
    /// Requests that one worker answers at the same time.
    #[serde(default = "default_concurrency")]
    pub(crate) concurrency: usize,
    /// How long a request waits for a worker.
    #[serde(default = "default_max_wait", deserialize_with = "time")]
    pub(crate) max_wait: Duration,
}

fn default_concurrency() -> usize {
    4
}

fn default_max_wait() -> Duration {
    Duration::from_secs(120)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    humantime::parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

impl BalancerConfig {
    /// What is wrong with the values, and how to mend it.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return Some("`load_balancer.concurrency` must be 1 to 10000");
        }
        (!(MIN_WAIT..=HOUR).contains(&self.max_wait)).then_some("`load_balancer.max_wait` must be 1s to 1h")
    }

    /// The values by name, for `--check-config`.
    pub(crate) fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("load-balancer-bind", self.bind.to_string()),
            ("load-balancer-concurrency", self.concurrency.to_string()),
            ("load-balancer-max-wait", humantime::format_duration(self.max_wait).to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_settings_requests_wait_as_long_as_on_runpod() {
        let config: BalancerConfig = toml::from_str("bind = \"127.0.0.1:0\"").unwrap();
        assert_eq!((config.max_wait, config.concurrency), (Duration::from_secs(120), 4));
        assert_eq!(config.mistake(), None);
    }
}
