//! The endpoint's part of `docs/metrics.md` says what the code says. `UPDATE_DOCS=1 cargo test --package runpod-endpoint
//! metrics_docs` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use runpod_endpoint::monitoring::STATUS_CLASSES;

use crate::monitoring::text_after_a_mixed_load;

const BEGIN: &str = "<!-- endpoint metrics: generated, see endpoint/src/monitoring -->\n";
const END: &str = "<!-- end of endpoint metrics -->";
/// Labels whose values are not listed: those of the user, and those that the text above the table tells.
const OPEN: [&str; 4] = ["endpoint", "operation", "model", "version"];

/// One family of metrics.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    unit: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                current = name.to_owned();
                families.insert(current.clone(), Family { help: help.to_owned(), ..Family::default() });
            }
            ["#", "TYPE", _, kind] => families.get_mut(&current).unwrap().kind = kind.to_owned(),
            ["#", "UNIT", _, unit] => families.get_mut(&current).unwrap().unit = unit.to_owned(),
            _ => {
                let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).unwrap_or_default().0;
                for (name, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                    let family = families.get_mut(&current).unwrap();
                    family.labels.entry(name.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    // A load meets only some of them.
    let requests = families.get_mut("runpod_endpoint_http_requests").unwrap();
    requests.labels.insert("status".to_owned(), STATUS_CLASSES.map(str::to_owned).into());
    // And none of a load-balancing endpoint.
    let balanced = families.iter_mut().filter(|(name, _)| name.starts_with("runpod_endpoint_balanced_"));
    for (name, family) in balanced {
        family.labels.insert("endpoint".to_owned(), BTreeSet::new());
        if name == "runpod_endpoint_balanced_requests" {
            family.labels.insert("status".to_owned(), STATUS_CLASSES.map(str::to_owned).into());
        }
    }
    families
}

fn row(name: &str, family: &Family) -> String {
    let suffix = if family.kind == "counter" { "_total" } else { "" };
    let labels = family.labels.iter().filter(|(label, _)| *label != "le").map(|(label, values)| {
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        if OPEN.contains(&&**label) { format!("`{label}`") } else { format!("`{label}`: {}", values.join(", ")) }
    });
    let labels: Vec<_> = labels.collect();
    let help = family.help.trim_end_matches('.');
    format!("| `{name}{suffix}` | {} | {} | {} | {help} |\n", family.kind, family.unit, labels.join("; "))
}

#[tokio::test(start_paused = true)]
async fn every_metric_is_listed() {
    let mut table = "| metric | type | unit | labels | what it is |\n| --- | --- | --- | --- | --- |\n".to_owned();
    table.extend(families(&text_after_a_mixed_load().await).iter().map(|(name, family)| row(name, family)));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = found.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let expected = format!("{head}{BEGIN}{table}{END}{tail}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, expected).unwrap();
    }
    assert!(
        found == expected,
        "docs/metrics.md is not what the code says: run UPDATE_DOCS=1 cargo test --package runpod-endpoint metrics_docs"
    );
}
