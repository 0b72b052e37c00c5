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

/// Hours and minutes become seconds, and half a minute becomes three, so that a test sees alerts start and end.
fn hurried(rules: String) -> String {
    let windows = [
        ("[2m]", "[5s]"),
        ("[5m]", "[10s]"),
        ("[10m]", "[15s]"),
        ("[10m:]", "[3s:]"),
        ("[1h]", "[20s]"),
        ("[1h:]", "[20s:]"),
    ];
    let ages = [("age_seconds > 30\n", "age_seconds > 3\n"), ("uptime_seconds < 3600\n", "uptime_seconds < 20\n")];
    let waits = [
        ("for: 15s", "for: 1s"),
        ("for: 1m", "for: 1s"),
        ("for: 2m", "for: 2s"),
        ("for: 5m", "for: 2s"),
        ("for: 10m", "for: 3s"),
    ];
    let rules = replaced(replaced(rules, &windows), &ages);
    replaced(rules, &waits)
}

/// The name of a program as Prometheus knows it: the address in its URL.
fn target(url: &str) -> &str {
    url.trim_start_matches("http://").split('/').next().unwrap_or_default()
}

/// A running Alertmanager.
pub(crate) struct Alertmanager {
    pub(crate) address: String,
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
    pub(crate) async fn start(workers: &[&str], endpoint: &str, alertmanager: &str) -> Self {
        Self::start_with(workers, endpoint, alertmanager, &hurried(shipped("rules.yml"))).await
    }

    /// The same with other rules.
    pub(crate) async fn start_with(workers: &[&str], endpoint: &str, alertmanager: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workers: Vec<&str> = workers.iter().map(|worker| target(worker)).collect();
        let workers_here = format!("static_configs:\n      - targets: [\"{}\"]", workers.join("\", \""));
        let changes = [
            ("dns_sd_configs:\n      - {names: [worker], type: A, port: 8001}", &*workers_here),
            ("endpoint:8000", target(endpoint)),
            ("alertmanager:9093", alertmanager),
            ("15s", "1s"),
        ];
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, replaced(shipped("prometheus.yml"), &changes)).unwrap();
        std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
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

    pub(crate) async fn has_answer(&self, what: &str, query: &str) {
        eventually(what, || async { (!self.query(query).await.is_empty()).then_some(()) }).await;
    }

    pub(crate) async fn fires(&self, alert: &str) {
        self.has_answer(&format!("{alert} to fire"), &firing(alert, "")).await;
    }

    /// As [`Self::fires`], about the program at this URL.
    pub(crate) async fn fires_at(&self, url: &str, alert: &str) {
        let instance = format!("instance=\"{}\"", target(url));
        self.has_answer(&format!("{alert} to fire at {url}"), &firing(alert, &instance)).await;
    }

    /// As [`Self::fires`], about the endpoint of this id, however many programs serve it.
    pub(crate) async fn fires_for(&self, id: &str, alert: &str) {
        let endpoint = format!("endpoint=\"{id}\"");
        self.has_answer(&format!("{alert} to fire for {id}"), &firing(alert, &endpoint)).await;
    }

    /// Asks for the absence, so that a Prometheus which does not answer is not taken for one that is content.
    pub(crate) async fn is_over(&self, alert: &str) {
        self.has_answer(&format!("{alert} to end"), &format!("absent({})", firing(alert, ""))).await;
    }
}

fn firing(alert: &str, labels: &str) -> String {
    format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", {labels}}}")
}
