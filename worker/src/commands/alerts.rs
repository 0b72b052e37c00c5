//! `runpod-worker alerts`: shows the rules in effect and tests the webhook.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use runpod_alerts::{Alert, AlertState, Counters, Message, Readings, Rule, Webhook, request_error_text};
use runpod_handler_protocol::ErrorKind;
use serde_json::Value;

use super::{complain, endpoint_readings, print};
use crate::alerts::AlertConfig;
use crate::cli::AlertsArgs;
use crate::config::{EXIT_CONFIG, Environment as _, ProcessEnvironment, load_alerts};

/// Longest time for the health document of a worker or endpoint.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `--dry-run` or `--test`.
pub(super) async fn alerts_command(args: &AlertsArgs) -> ExitCode {
    let config = match load_alerts(&args.alerts, &ProcessEnvironment) {
        Ok(config) => config,
        Err(errors) => return complain(EXIT_CONFIG, &errors.to_string()),
    };
    let source = ProcessEnvironment.get("RUNPOD_POD_ID").unwrap_or_else(|| "runpod-worker".to_owned());
    if args.test {
        return test(config, &source).await;
    }
    let seen = match &args.url {
        None => None,
        Some(url) => match fetch_readings(url).await {
            Ok(readings) => Some(readings),
            Err(error) => return complain(1, &error),
        },
    };
    print(dry_run(&config, &source, seen.as_ref(), SystemTime::now()).trim_end())
}

/// Sends one message, once.
async fn test(config: AlertConfig, source: &str) -> ExitCode {
    let Some(url) = config.webhook else {
        return complain(
            EXIT_CONFIG,
            "there is no webhook to test: set RUNPOD_WORKER_ALERT_WEBHOOK or --alert-webhook",
        );
    };
    let message = Message::test(source, SystemTime::now());
    let sent = match Webhook::new(url, config.format) {
        Ok(webhook) => webhook.post(&message).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) => print(&format!("delivered: {}", message.body(config.format))),
        Err(error) => complain(1, &error.to_string()),
    }
}

/// Asks a worker or an endpoint for its health document.
async fn fetch_readings(url: &str) -> Result<Readings, String> {
    let base = base_url(url);
    // The address alone may be a worker's, or that of an endpoint's server.
    let is_bare = base.splitn(4, '/').count() < 4;
    let paths: &[&str] = if is_bare { &["health", "v2/local/health"] } else { &["health"] };
    for path in paths {
        let url = format!("{base}/{path}");
        let document: Value = serde_json::from_str(&fetch(&url).await?).unwrap_or_default();
        let Some(readings) = readings(&document) else { continue };
        // An endpoint of this project says more in its metrics.
        let endpoint = url.trim_end_matches("/health").rsplit_once("/v2/");
        return Ok(match endpoint {
            Some((root, id)) => {
                let metrics = fetch(&format!("{root}/metrics")).await.unwrap_or_default();
                endpoint_readings::readings(&metrics, id).unwrap_or(readings)
            }
            None => readings,
        });
    }
    Err(format!("{base}/health does not answer with a health document; check --url"))
}

async fn fetch(url: &str) -> Result<String, String> {
    let failed = |error| format!("{url} cannot be read: {}; check --url", request_error_text(error));
    let answer = reqwest::Client::new().get(url).timeout(HEALTH_TIMEOUT).send().await.map_err(failed)?;
    answer.text().await.map_err(failed)
}

/// The address as a URL, without `/health`.
fn base_url(url: &str) -> String {
    let url = url.trim_end_matches('/').trim_end_matches("/health");
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

/// The readings in the document. Utilisation is the mean over the GPUs that report theirs.
fn readings(document: &Value) -> Option<Readings> {
    let jobs = document.get("jobs")?;
    let count = |group: &str, name: &str| document[group][name].as_u64().unwrap_or_default();
    let used: Vec<f64> = document["runtime"]["gpus"]
        .as_array()
        .map(|gpus| gpus.iter().filter_map(|gpu| gpu["gpuUtilPercent"].as_f64()).collect())
        .unwrap_or_default();
    let gpu_utilization = (!used.is_empty()).then(|| used.iter().sum::<f64>() / used.len() as f64 / 100.0);
    Some(Readings {
        waiting: jobs.get("inQueue")?.as_u64()?,
        running: count("jobs", "inProgress"),
        idle_workers: count("workers", "idle"),
        unhealthy_workers: count("workers", "unhealthy"),
        // The document has RunPod's counters only.
        lost_workers: 0,
        gpu_utilization,
        data_unavailable: None,
        counters: Counters {
            completed: count("jobs", "completed"),
            failed: count("jobs", "failed"),
            // The document of RunPod's endpoints has no such counters: there they are among the failed jobs.
            caller_mistakes: ErrorKind::ALL
                .iter()
                .filter(|kind| kind.is_caller_mistake())
                .filter_map(|kind| document["worker"]["failures"][kind.as_str()].as_u64())
                .sum(),
            timed_out: document["worker"]["jobs"]["timedOut"].as_u64().unwrap_or_default(),
        },
    })
}

/// The rules in effect, then their values for `seen`, then the bodies that would be posted.
fn dry_run(config: &AlertConfig, source: &str, seen: Option<&Readings>, now: SystemTime) -> String {
    let mut text = "# The rules in effect, as a rules file\n\n".to_owned();
    for rule in &config.rules {
        let _ = writeln!(text, "{rule}");
    }
    let webhook = config.webhook.as_ref().map_or_else(|| "not set".to_owned(), ToString::to_string);
    let Some(seen) = seen else {
        let body = Message::test(source, now).body(config.format);
        let _ = writeln!(text, "# A body that --test would post; the webhook is {webhook}\n\n{body}");
        return text;
    };
    let judged: Vec<(&Rule, Option<f64>)> =
        config.rules.iter().map(|rule| (rule, rule.signal.value(seen, Counters::default(), rule.min_jobs))).collect();
    text.push_str("# Values now; those with a window are since the start\n\n");
    let bad = |rule: &Rule, value: Option<f64>| value.is_some_and(|value| rule.condition.holds(value));
    for (rule, value) in &judged {
        let shown = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let verdict = match (bad(rule, *value), rule.hold.is_zero()) {
            (false, _) => "quiet".to_owned(),
            (true, true) => "FIRES".to_owned(),
            (true, false) => format!("FIRES if it lasts for {}", humantime::format_duration(rule.hold)),
        };
        let _ = writeln!(text, "{:20} {shown:>12}   {:14} {verdict}", rule.name, rule.condition.to_string());
    }
    let _ = writeln!(text, "\n# Bodies that would be posted; the webhook is {webhook}\n");
    for (rule, value) in judged.into_iter().filter(|(rule, value)| bad(rule, *value)) {
        let alert = Alert { rule: rule.clone(), state: AlertState::Firing, value };
        let _ = writeln!(text, "{}", Message::new(source, &alert, now).body(config.format));
    }
    text
}

#[cfg(test)]
mod tests {
    use runpod_alerts::{Format, parse_rules};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_address_alone_names_a_worker_or_the_server_of_an_endpoint() {
        for path in ["/health", "/v2/local/health"] {
            let document = r#"{"jobs": {"inQueue": 3}, "workers": {}}"#;
            let router = axum::Router::new().route(path, axum::routing::get(move || async move { document }));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            tokio::spawn(async move { axum::serve(listener, router).await });
            for url in [address.clone(), format!("{address}{path}"), format!("http://{address}/")] {
                assert_eq!(fetch_readings(&url).await.unwrap().waiting, 3, "{url}");
            }
            let elsewhere = fetch_readings(&format!("{address}/v2/other")).await.unwrap_err();
            assert!(elsewhere.contains("--url"), "{elsewhere}");
        }
    }

    #[tokio::test]
    async fn mistakes_of_callers_are_no_failures_of_an_endpoint_whose_metrics_name_them() {
        let health = r#"{"jobs": {"completed": 3, "failed": 9, "inQueue": 0}, "workers": {}}"#;
        let metrics = "runpod_endpoint_queue_depth{endpoint=\"images\"} 0.0\n\
                       runpod_endpoint_jobs_total{endpoint=\"images\",status=\"failed\"} 9\n\
                       runpod_endpoint_caller_mistakes_total{endpoint=\"images\",kind=\"validation\"} 9\n";
        let health = axum::routing::get(move || async move { health });
        let router = axum::Router::new()
            .route("/v2/images/health", health.clone())
            .route("/v2/elsewhere/health", health)
            .route("/metrics", axum::routing::get(move || async move { metrics }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        for (endpoint, mistakes) in [("images", 9), ("elsewhere", 0)] {
            let seen = fetch_readings(&format!("{address}/v2/{endpoint}")).await.unwrap();
            assert_eq!((seen.counters.failed, seen.counters.caller_mistakes), (9, mistakes), "{endpoint}");
        }
    }

    #[test]
    fn a_health_document_is_read_and_judged() {
        let document = json!({
            "jobs": {"completed": 60, "failed": 40, "inProgress": 1, "inQueue": 150, "retried": 0},
            "workers": {"idle": 0, "unhealthy": 0},
            "worker": {"jobs": {"timedOut": 2}, "failures": {"validation": 8, "model_not_found": 7, "timeout": 2}},
            "runtime": {"gpus": [{"gpuUtilPercent": 30}, {"gpuUtilPercent": 10}, {}]},
        });
        let seen = readings(&document).unwrap();
        assert_eq!((seen.waiting, seen.running, seen.counters.timed_out), (150, 1, 2));
        assert_eq!(seen.gpu_utilization, Some(0.2));
        assert_eq!(readings(&json!({"status": "ok"})), None);

        let config = AlertConfig { rules: parse_rules("").unwrap(), webhook: None, format: Format::Plain };
        let text = dry_run(&config, "w1", Some(&seen), SystemTime::UNIX_EPOCH);
        let values = text.split("# Values now").nth(1).unwrap();
        insta::assert_snapshot!(values, @r#"
        ; those with a window are since the start

        data_unavailable                -   above 0        quiet
        failure_rate                0.294   above 0.1      FIRES if it lasts for 1m
        gpu_underused               0.200   below 0.2      quiet
        no_idle_worker            150.000   above 0        FIRES if it lasts for 5m
        queue_depth               150.000   above 100      FIRES if it lasts for 1m
        timeout_spike               2.000   above 5        quiet
        unhealthy                   0.000   above 0        quiet
        worker_lost                 0.000   above 0        quiet

        # Bodies that would be posted; the webhook is not set

        {"message":"share of valid jobs that failed within 5m: 0.294. The alert fires when it is above 0.1 for 1m. What to do: docs/operations.md#failure_rate","severity":"critical","timestamp":"1970-01-01T00:00:00Z","title":"w1: failure_rate is firing"}
        {"message":"jobs waiting while no worker is idle: 150. The alert fires when it is above 0 for 5m. What to do: docs/operations.md#no_idle_worker","severity":"warning","timestamp":"1970-01-01T00:00:00Z","title":"w1: no_idle_worker is firing"}
        {"message":"jobs waiting: 150. The alert fires when it is above 100 for 1m. What to do: docs/operations.md#queue_depth","severity":"warning","timestamp":"1970-01-01T00:00:00Z","title":"w1: queue_depth is firing"}
        "#);
    }

    #[test]
    fn without_a_worker_the_rules_are_shown_and_can_be_used_as_a_file() {
        let config = AlertConfig { rules: parse_rules("").unwrap(), webhook: None, format: Format::Slack };
        let text = dry_run(&config, "w1", None, SystemTime::UNIX_EPOCH);
        let (rules, body) = text.split_once("# A body").unwrap();
        assert_eq!(parse_rules(rules).unwrap(), config.rules);
        assert!(body.contains("the webhook is not set") && body.contains("{\"text\":\"*w1: test*"), "{body}");
    }
}
