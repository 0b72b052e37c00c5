//! Every setting and limit in force, with its origin: what `--check-config` prints.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use runpod_http_server::ServerLimits;

use super::config::Config;
use crate::api::limits::{self, bytes};
use crate::balancer;
use crate::console;
use crate::overflow;
use crate::store::Limits;

/// The origin of a limit that no flag changes.
const FIXED: &str = "fixed";
/// The origin of a value that is not set anywhere.
const DEFAULT: &str = "default";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    name: String,
    value: String,
    /// The flag, the environment variable or the file that it comes from; `default` or `fixed`.
    origin: String,
}

/// All settings, in the order of `--help`; then those of the configured endpoints; then what is fixed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effective(Vec<Setting>);

impl Effective {
    /// The flags of `command`, as they were given in `matches`.
    pub(crate) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let flags = command.get_arguments().filter(|flag| !matches!(flag.get_id().as_str(), "help" | "check_config"));
        Self(flags.filter_map(|flag| Some(flag_setting(flag, flag.get_long()?, matches))).collect())
    }

    /// Whether this flag has its default value.
    pub(crate) fn is_default(&self, name: &str) -> bool {
        !self.0.iter().any(|setting| setting.name == name && setting.origin != DEFAULT)
    }

    /// Adds the endpoints of the configuration file and the fixed limits.
    pub(crate) fn complete(&mut self, config: &Config) {
        for endpoint in &config.endpoint {
            for (name, value) in endpoint.settings() {
                let name = format!("{}.{name}", endpoint.id);
                self.0.push(Setting { name, value, origin: "--config".to_owned() });
            }
        }
        let fixed = limits::describe().into_iter().chain(store_limits(&Limits::default()));
        let fixed = fixed.chain(overflow::limits::describe()).chain(balancer::limits::describe());
        let connections = ServerLimits::default().describe().into_iter().filter(|(name, _)| *name != "connections");
        let fixed = fixed.chain(connections).chain([("console-event-streams", console::MAX_EVENT_STREAMS.to_string())]);
        self.0.extend(fixed.map(|(name, value)| Setting { name: name.to_owned(), value, origin: FIXED.to_owned() }));
    }

    /// One line for each setting: name, value, origin.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let width = self.0.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
        self.0.iter().map(move |Setting { name, value, origin }| format!("{name:width$} = {value} ({origin})"))
    }
}

/// The limits of one endpoint's queue that no flag changes.
fn store_limits(limits: &Limits) -> [(&'static str, String); 13] {
    let time = |time| humantime::format_duration(time).to_string();
    [
        ("timeout-grace", time(limits.timeout_grace)),
        ("jobs", limits.max_jobs.to_string()),
        ("memory-of-jobs", bytes(limits.max_memory_bytes)),
        ("unread-stream-items", bytes(limits.max_stream_bytes)),
        ("all-unread-stream-items", bytes(limits.max_total_stream_bytes)),
        ("known-workers", limits.max_workers.to_string()),
        ("worker-retention", time(limits.worker_retention)),
        ("takes-not-begun", limits.max_takes_not_begun.to_string()),
        ("first-failures", limits.max_first_failures.to_string()),
        ("given-up-webhooks", limits.max_given_up.to_string()),
        ("given-up-webhook-retention", time(limits.given_up_retention)),
        ("refresh-gap", time(limits.refresh_gap)),
        ("refresh-patience", time(limits.refresh_patience)),
    ]
}

fn flag_setting(flag: &Arg, name: &str, matches: &ArgMatches) -> Setting {
    let id = flag.get_id().as_str();
    let values = matches.get_raw(id).map(|values| {
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        runpod_log_line::printable(&values.join(" ")).into_owned()
    });
    let value = match values {
        // Only secrets hide the values of their environment variables.
        Some(value) if flag.is_hide_env_values_set() => if value.is_empty() { "empty" } else { "set" }.to_owned(),
        Some(value) => value,
        None => "none".to_owned(),
    };
    let origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => format!("--{name}"),
        Some(ValueSource::EnvVariable) => {
            flag.get_env().map_or_else(|| "environment".to_owned(), |variable| variable.to_string_lossy().into_owned())
        }
        _ => DEFAULT.to_owned(),
    };
    Setting { name: name.to_owned(), value, origin }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    fn effective(args: &[&str]) -> Vec<String> {
        let matches = Cli::command().try_get_matches_from(["runpod-endpoint", "serve"].iter().chain(args)).unwrap();
        let command = Cli::command();
        let (name, matches) = matches.subcommand().unwrap();
        let mut effective = Effective::of(command.find_subcommand(name).unwrap(), matches);
        effective.complete(&Config::default());
        effective.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn each_setting_is_shown_with_its_origin_and_no_secret_is() {
        let lines = effective(&["--lease", "50s", "--api-key", "hunter2", "--webhook-allow", "10.0.0.0/8"]);
        for line in [
            "bind = 127.0.0.1:8000 (default)",
            "lease = 50s (--lease)",
            "api-key = set (--api-key)",
            "worker-key-file = none (default)",
            "webhook-allow = 10.0.0.0/8 (--webhook-allow)",
            "insecure-no-auth = false (default)",
            "run-body = 10 MiB (fixed)",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{line:?} is not in {lines:#?}");
        }
        assert!(!lines.concat().contains("hunter2"));
    }
}
