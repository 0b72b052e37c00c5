//! Prometheus and Alertmanager over copies of the shipped files, in which only addresses and lengths of time are changed.

use std::path::{Path, PathBuf};

use end_to_end_tests::{Daemon, eventually, free_port, repository};
use reqwest::Url;
use serde_json::Value;

const PACKAGES: &str = "tests/install-packages.sh prometheus prometheus-alertmanager";

/// A program of a Debian package.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = Path::new("/usr/bin").join(name);
    assert!(path.is_file(), "{} is missing: run {PACKAGES}", path.display());
    path
}

/// A file below `docker/monitoring`.
pub(crate) fn shipped(name: &str) -> String {
    let path = repository().join("docker/monitoring").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text with each of these replaced; each must be there.
fn replaced(mut text: String, changes: &[(&str, &str)]) -> String {
    for (from, to) in changes {
        assert!(text.contains(from), "there is no {from:?} any more: {text}");
        text = text.replace(from, to);
    }
    text
}

/// Hours and minutes become seconds, so that a test sees alerts start and end.
fn hurried(rules: String) -> String {
    let rules = replaced(rules, &[("[2m]", "[5s]"), ("[5m]", "[10s]"), ("[10m]", "[15s]"), ("[1h]", "[30s]")]);
    replaced(rules, &[("for: 1m\n", "for: 1s\n"), ("for: 5m\n", "for: 2s\n"), ("for: 10m\n", "for: 3s\n")])
}

/// A running Alertmanager.
pub(crate) struct Alertmanager {
    address: String,
    _daemon: Daemon,
    _folder: tempfile::TempDir,
}

impl Alertmanager {
    /// With the shipped routes, to this receiver.
    pub(crate) async fn start(receiver: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let changes = [("http://pager:9099", receiver), ("group_interval: 1m", "group_interval: 1s")];
        let config = folder.path().join("alertmanager.yml");
        std::fs::write(&config, replaced(shipped("alertmanager.yml"), &changes)).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let args = [
            format!("--config.file={}", config.display()),
            format!("--storage.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={address}"),
            "--cluster.listen-address=".to_owned(),
        ];
        let daemon = Daemon::start("alertmanager", &tool("prometheus-alertmanager"), &args, &[]);
        let ready = format!("http://{address}/-/ready");
        eventually("Alertmanager", || async { reqwest::get(&ready).await.ok().filter(|a| a.status().is_success()) })
            .await;
        Self { address, _daemon: daemon, _folder: folder }
    }
}

/// A running Prometheus.
pub(crate) struct Prometheus {
    base: String,
    _daemon: Daemon,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// With the shipped configuration and rules, hurried, looking at all of these once a second.
    pub(crate) async fn start(workers: &[&str], endpoint: &str, alertmanager: &Alertmanager) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = |url: &str| url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        let workers: Vec<String> = workers.iter().map(|worker| target(worker)).collect();
        let changes = [
            ("worker:8001", &*workers.join("\", \"")),
            ("endpoint:8000", &*target(endpoint)),
            ("alertmanager:9093", &*alertmanager.address),
            ("15s", "1s"),
        ];
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, replaced(shipped("prometheus.yml"), &changes)).unwrap();
        std::fs::write(folder.path().join("rules.yml"), hurried(shipped("rules.yml"))).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let args = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let daemon = Daemon::start("prometheus", &tool("prometheus"), &args, &[]);
        let prometheus = Self { base: format!("http://{address}/api/v1"), _daemon: daemon, _folder: folder };
        let all = format!("sum(up) == {}", workers.len() + 1);
        eventually("all targets to be scraped", || async { (prometheus.query(&all).await.len() == 1).then_some(()) })
            .await;
        prometheus
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = Url::parse_with_params(&format!("{}/{path}", self.base), parameters).unwrap();
        match reqwest::get(url).await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// The series that a query answers with now.
    pub(crate) async fn query(&self, query: &str) -> Vec<Value> {
        let answer = self.get("query", &[("query", query)]).await;
        assert!(answer.is_null() || answer["status"] == "success", "{query}: {answer}");
        // A scalar is one value, a division of nothing by nothing is none.
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        series.into_iter().filter(|one| one["value"][1] != "NaN").collect()
    }

    /// Every rule that was loaded, as Prometheus understood it.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let answer = self.get("rules", &[]).await;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// Whether this alert is firing.
    pub(crate) async fn fires(&self, alert: &str) -> bool {
        !self.query(&format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}")).await.is_empty()
    }

    pub(crate) async fn until_it_fires(&self, alert: &str) {
        eventually(&format!("{alert} to fire"), || async { self.fires(alert).await.then_some(()) }).await;
    }

    pub(crate) async fn until_it_is_over(&self, alert: &str) {
        eventually(&format!("{alert} to end"), || async { (!self.fires(alert).await).then_some(()) }).await;
    }
}
