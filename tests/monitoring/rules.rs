//! The shipped files by themselves: Prometheus' own tools accept them, and they agree with each other.

use std::collections::BTreeSet;

use end_to_end_tests::{repository, run_tool};

use crate::stack::{shipped, tool};

fn passes(program: &str, args: &[&str]) {
    let output = run_tool(&tool(program).to_string_lossy(), args);
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{program} {args:?}:\n{}", String::from_utf8_lossy(&text));
}

/// The values of `key` in a YAML file, one a line.
fn values(text: &str, key: &str) -> BTreeSet<String> {
    let value = |line: &str| Some(line.trim().trim_start_matches("- ").strip_prefix(key)?.trim().to_owned());
    text.lines().filter_map(value).collect()
}

#[test]
fn prometheus_and_alertmanager_accept_their_files() {
    passes("promtool", &["check", "rules", "docker/monitoring/rules.yml"]);
    passes("promtool", &["check", "config", "docker/monitoring/prometheus.yml"]);
    passes("amtool", &["check-config", "docker/monitoring/alertmanager.yml"]);
}

#[test]
fn every_alert_fires_when_it_should_and_ends() {
    passes("promtool", &["test", "rules", "tests/monitoring/rules_test.yml"]);
    let tests = std::fs::read_to_string(repository().join("tests/monitoring/rules_test.yml")).unwrap();
    let alerts = values(&shipped("rules.yml"), "alert:");
    assert!(alerts.len() > 10, "the rules are elsewhere");
    for alert in alerts {
        // Each must be seen both ways.
        let cases: Vec<&str> =
            tests.split("alertname: ").filter(|case| case.starts_with(&format!("{alert}\n"))).collect();
        let quiet = |case: &&&str| case.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts: []");
        let firing = cases.iter().filter(|case| !quiet(case)).count();
        assert!(firing > 0 && firing < cases.len(), "{alert} is not tested both firing and quiet");
        assert!(cases.last().is_some_and(|case| quiet(&case)), "{alert} is not tested to end");
    }
}

#[test]
fn every_alert_is_provoked_under_a_real_prometheus() {
    let live = [
        include_str!("live.rs"),
        include_str!("incidents.rs"),
        include_str!("database.rs"),
        include_str!("endpoints.rs"),
    ];
    let live = live.concat();
    for alert in values(&shipped("rules.yml"), "alert:") {
        assert!(live.contains(&format!("\"{alert}\"")), "no test makes {alert} fire");
    }
}

/// The queries of docs/metrics.md, as recording rules: `promtool` reads those.
#[test]
fn prometheus_understands_the_queries_of_the_guide() {
    let guide = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let blocks = guide.split("```promql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let queries: Vec<&str> = blocks.flat_map(str::lines).map(|line| line.split('#').next().unwrap().trim()).collect();
    let queries: Vec<&str> = queries.into_iter().filter(|query| !query.is_empty()).collect();
    assert!(queries.len() > 5, "the queries are elsewhere: {queries:?}");
    let mut rules = "groups:\n  - name: guide\n    rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        rules += &format!("      - record: query{number}\n        expr: {query:?}\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    passes("promtool", &["check", "rules", &file.to_string_lossy()]);
}

#[test]
fn every_alert_has_a_section_in_the_runbook() {
    let runbook = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let links = values(&shipped("rules.yml"), "runbook_url:");
    assert_eq!(links.len(), values(&shipped("rules.yml"), "alert:").len(), "an alert has no link of its own");
    for link in links {
        let section = link.strip_prefix("docs/operations.md#").unwrap_or_else(|| panic!("{link} leads elsewhere"));
        assert!(sections.contains(section), "docs/operations.md has no section {section}");
    }
    // The rules of the programs themselves are linked by their names.
    let own = std::fs::read_to_string(repository().join("alerts/src/defaults.toml")).unwrap();
    for rule in own.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']')) {
        assert!(sections.contains(rule), "docs/operations.md has no section {rule}");
    }
}

/// What no Kubernetes and no Docker is needed for: the files are YAML, and what they mount and name is there.
#[test]
fn the_compose_file_and_the_scaled_object_hang_together() {
    let packages = repository().join(".venv/runpod");
    assert!(packages.join("yaml").is_dir(), "PyYAML is not installed: run `make python-client`");
    let script = format!(
        r#"
import sys
sys.path.insert(0, "{}")
import pathlib, yaml
compose = yaml.safe_load(open("docker/compose.yml"))
services = compose["services"]
assert set(services) == {{"endpoint", "worker", "prometheus", "alertmanager", "grafana"}}, services
for name, service in services.items():
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (pathlib.Path("docker") / source).exists(), f"{{name}} mounts {{source}}"
        elif not source.startswith("../target/"):
            assert source in compose["volumes"], f"{{name}} mounts {{source}}"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), f"{{name}} is open to the network"
scraped = yaml.safe_load(open("docker/monitoring/prometheus.yml"))["scrape_configs"]
targets = [t.split(":")[0] for job in scraped for config in job.get("static_configs", []) for t in config["targets"]]
targets += [name for job in scraped for config in job.get("dns_sd_configs", []) for name in config["names"]]
assert len(targets) == 2 and set(targets) <= set(services), targets
worker = services["worker"]
assert "RUNPOD_POD_ID" not in worker["environment"], "workers of one service would share an id"
assert "container_name" not in worker and "ports" not in worker, "only one container could be started"
scaled = yaml.safe_load(open("docker/monitoring/keda.yml"))
assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
trigger = scaled["spec"]["triggers"][0]
assert trigger["type"] == "prometheus" and {{"serverAddress", "query", "threshold"}} <= set(trigger["metadata"])
for path in pathlib.Path("docker/monitoring/grafana/provisioning").rglob("*.yml"):
    assert yaml.safe_load(path.open())["apiVersion"] == 1, path
"#,
        packages.display()
    );
    let output = run_tool("python3", &["-c", &script]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
