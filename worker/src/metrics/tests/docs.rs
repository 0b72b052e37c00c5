//! `docs/metrics.md` says what the code says. `UPDATE_DOCS=1 cargo test --package runpod-worker docs` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::eventful;
use crate::metrics::runtime::tests::everything;
use crate::metrics::{RuntimeMetrics, ServerMetrics};
use crate::sensors::Sensors;

const BEGIN: &str = "<!-- worker metrics: generated, see worker/src/metrics -->\n";
const END: &str = "<!-- end of worker metrics -->";
/// Labels whose values depend on handler, machine or jobs.
const OPEN: [&str; 5] = ["model", "version", "tenant", "device", "gpu"];

/// One family of metrics as Prometheus sees it.
#[derive(Default)]
struct Described {
    name: String,
    help: String,
    kind: String,
    unit: String,
    /// Values of each label, in the order of the labels.
    labels: Vec<(String, Vec<String>)>,
}

fn families(text: &str) -> Vec<Described> {
    let mut families: Vec<Described> = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), help) => families.push(Described {
                name: name.to_owned(),
                help: help.unwrap_or_default().to_owned(),
                ..Described::default()
            }),
            (Some("#"), Some("TYPE"), _, Some(kind)) => families.last_mut().unwrap().kind = kind.to_owned(),
            (Some("#"), Some("UNIT"), _, Some(unit)) => families.last_mut().unwrap().unit = unit.to_owned(),
            (Some("#"), ..) => {}
            _ => families.last_mut().unwrap().note(line),
        }
    }
    families
}

impl Described {
    /// Takes the labels of a sample.
    fn note(&mut self, sample: &str) {
        let Some((_, rest)) = sample.split_once('{') else {
            return;
        };
        let labels = rest.rsplit_once('}').unwrap().0;
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').unwrap();
            if name == "le" {
                continue;
            }
            let value = value.trim_matches('"').to_owned();
            match self.labels.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) if values.contains(&value) => {}
                Some((_, values)) => values.push(value),
                None => self.labels.push((name.to_owned(), vec![value])),
            }
        }
    }

    /// The name in queries.
    fn exposed(&self) -> String {
        match self.kind.as_str() {
            "counter" => format!("{}_total", self.name),
            "info" => format!("{}_info", self.name),
            _ => self.name.clone(),
        }
    }

    fn row(&self) -> String {
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(name, values)| {
                let mut values = values.clone();
                values.sort_unstable();
                if OPEN.contains(&name.as_str()) {
                    format!("`{name}`")
                } else {
                    format!("`{name}`: {}", values.join(", "))
                }
            })
            .collect();
        let help = self.help.trim_end_matches('.');
        format!("| `{}` | {} | {} | {} | {help} |", self.exposed(), self.kind, self.unit, labels.join("; "))
    }
}

fn table() -> String {
    let (gpus, host, snapshot) = everything();
    let (_sender, snapshots) = watch::channel(snapshot);
    let mut metrics = eventful();
    let servers = ["health", "jobs", "ping"].map(|name| (name, Arc::default()));
    metrics.add(ServerMetrics::new(servers.into()));
    metrics.add(RuntimeMetrics::new(Sensors::new(gpus, host, Vec::new()), snapshots));
    let families: BTreeMap<String, Described> =
        families(&metrics.encode().unwrap()).into_iter().map(|family| (family.exposed(), family)).collect();
    let mut text = "| metric | type | unit | labels | what it is |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for family in families.values() {
        let _ = writeln!(text, "{}", family.row());
    }
    text
}

#[test]
fn docs_list_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = found.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let expected = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    assert!(
        found == expected,
        "docs/metrics.md is not what the code says: run UPDATE_DOCS=1 cargo test --package runpod-worker docs"
    );
}
