//! The worker's figures agree with what its clients saw.

use std::collections::BTreeMap;

use end_to_end_tests::{Stack, WorkerOptions, eventually};
use serde_json::{Value, json};

/// The value of one series.
fn sample(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{metrics}")).parse().unwrap()
}

/// Values of all series of a name, by the value of this label.
fn by_label(metrics: &str, name: &str, label: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')) {
        let (labels, value) = line.rsplit_once("} ").unwrap();
        let found = labels.split(',').find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'));
        *sums.entry(found.unwrap().to_owned()).or_default() += value.parse::<f64>().unwrap();
    }
    sums
}

fn without_zeros(counts: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    counts.into_iter().filter(|(_, count)| *count != 0.0).collect()
}

/// What the clients of a worker saw.
#[derive(Default)]
struct Seen {
    jobs: f64,
    statuses: BTreeMap<String, f64>,
    errors: BTreeMap<String, f64>,
}

impl Seen {
    fn note(&mut self, job: &Value) {
        self.jobs += 1.0;
        if job["status"] == "COMPLETED" {
            let cost = &job["cost"];
            let (seconds, dollars) = (cost["gpuSeconds"].as_f64().unwrap(), cost["dollars"].as_f64().unwrap());
            // 3.6 an hour is a tenth of a cent a second.
            assert!(seconds > 0.0 && (dollars - seconds / 1000.0).abs() < 1e-9, "{job}");
        }
        *self.statuses.entry(job["status"].as_str().unwrap().to_owned()).or_default() += 1.0;
        if let Some(error) = job["error"].as_str() {
            let error: Value = serde_json::from_str(error).unwrap();
            *self.errors.entry(error["error_type"].as_str().unwrap().to_owned()).or_default() += 1.0;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_agree_with_what_the_clients_saw() {
    let flags = [
        ["--job-timeout", "5s"],
        ["--tenant-field", "input.tenant"],
        ["--tenant-limit", "2"],
        ["--price-per-hour", "3.6"],
        ["--cost-in-result", "true"],
    ];
    let stack = Stack::start("puppet-handler", WorkerOptions::flags(flags.as_flattened())).await;
    let mut seen = Seen::default();

    let unwanted = stack.client.submit(json!({"do": "check_cancel", "tenant": "a"})).await;
    // Not earlier: a job that is cancelled on its way to the worker is never started.
    eventually("the job to run", || async {
        (stack.worker.health().await["worker"]["slots"]["busy"] == 1).then_some(())
    })
    .await;
    stack.client.cancel(&unwanted).await;
    seen.note(&stack.client.finished(&unwanted).await);
    for (number, deed) in [
        json!({"do": "ok"}),
        json!({"do": "record", "name": "tokens", "value": 100.0}),
        json!({"do": "record", "name": "tokens", "value": 50.5}),
        json!({"do": "record", "name": "not a unit", "value": 7.0}),
        json!({"do": "error"}),
        json!({"do": "validation"}),
        json!({"do": "no such deed"}),
        json!({"do": "unknown_model"}),
        json!({"do": "oom_text"}),
        json!({"do": "panic"}),
        json!({"do": "check_cancel"}),
        json!({"do": "segv"}),
        json!({"do": "ok"}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut input = deed;
        input["tenant"] = json!(["a", "b", "c", "d"][number % 4]);
        seen.note(&stack.client.run(input).await);
    }

    let cancelled = seen.statuses.remove("CANCELLED").unwrap();
    let failed: f64 = seen.errors.values().sum();
    let timeouts = seen.errors["timeout"];
    let metrics = eventually("all results to be accepted", || async {
        let metrics = stack.worker.metrics().await;
        let accepted = sample(&metrics, "runpod_worker_results_delivered_total{outcome=\"accepted\"}");
        (accepted == seen.jobs - cancelled).then_some(metrics)
    })
    .await;

    let statuses = without_zeros(by_label(&metrics, "runpod_jobs_total", "status"));
    let expected = [
        ("in_queue", seen.jobs),
        ("in_progress", seen.jobs),
        ("completed", seen.statuses["COMPLETED"]),
        ("failed", failed - timeouts),
        ("timed_out", timeouts),
        ("cancelled", cancelled),
    ];
    assert_eq!(statuses, expected.map(|(status, count)| (status.to_owned(), count)).into());
    assert_eq!(without_zeros(by_label(&metrics, "runpod_job_failures_total", "kind")), seen.errors);
    let categories = by_label(&metrics, "runpod_job_errors_total", "category");
    assert_eq!(categories.values().sum::<f64>(), failed);
    assert_eq!((categories["oom"], categories["timeout"], categories["validation"]), (1.0, timeouts, 3.0));
    let types = by_label(&metrics, "inference_errors_total", "error_type");
    assert_eq!(types.values().sum::<f64>(), failed);
    assert_eq!((types["model_not_found"], types["validation"], types["timeout"]), (1.0, 2.0, timeouts));

    let tenants = without_zeros(by_label(&metrics, "inference_requests_total", "tenant"));
    assert_eq!(tenants.keys().collect::<Vec<_>>(), ["a", "b", "other"]);
    assert_eq!(tenants.values().sum::<f64>(), seen.jobs);
    assert_eq!(
        without_zeros(by_label(&metrics, "runpod_job_items_total", "unit")),
        [("tokens".to_owned(), 150.5)].into()
    );
    let polls = by_label(&metrics, "runpod_worker_polls_total", "outcome");
    assert_eq!(sample(&metrics, "runpod_worker_jobs_per_poll_count"), polls["jobs"]);
    assert_eq!(sample(&metrics, "runpod_worker_jobs_per_poll_sum"), seen.jobs);

    // The cancel, and the timeout unless the handler saw its deadline before the worker did.
    let freed = sample(&metrics, "runpod_worker_time_to_free_seconds_count");
    assert!([1.0, 2.0].contains(&freed), "{freed}");
    // The segfault.
    let restarts = without_zeros(by_label(&metrics, "runpod_worker_handler_restarts_total", "cause"));
    assert_eq!(restarts, [("signal".to_owned(), 1.0)].into());
    assert_eq!(sample(&metrics, "runpod_worker_cold_starts_total"), 2.0);
    assert!(sample(&metrics, "runpod_worker_start_phase_seconds{phase=\"handshake\"}") > 0.0);
    assert!(sample(&metrics, "runpod_worker_heartbeat_age_seconds{}") < 60.0);

    let gpu_time = by_label(&metrics, "runpod_worker_gpu_seconds_total", "use");
    let money = by_label(&metrics, "runpod_worker_cost_dollars_total", "use");
    for what in ["useful", "failed", "cancelled", "warm_up"] {
        assert!(gpu_time[what] > 0.0, "{what} in {gpu_time:?}");
        // 3.6 an hour is a tenth of a cent a second.
        assert!((money[what] - gpu_time[what] / 1000.0).abs() < 1e-9, "{what}: {gpu_time:?} for {money:?}");
    }
    assert!(gpu_time.values().sum::<f64>() <= sample(&metrics, "runpod_worker_uptime_seconds"));

    let health = stack.worker.health().await;
    let failures: BTreeMap<String, f64> = serde_json::from_value(health["worker"]["failures"].clone()).unwrap();
    assert_eq!(failures, seen.errors);
    assert_eq!(health["worker"]["cost"]["perHour"], 3.6);
    assert!(health["worker"]["cost"]["perJob"].as_f64() > Some(0.0), "{health}");
    assert_eq!(health["worker"]["restarts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_turns_readiness_red_until_a_new_process_serves() {
    let slow = WorkerOptions::default().env("PUPPET_START", "load_slow").env("PUPPET_LOAD_MS", "1500");
    let stack = Stack::start("puppet-handler", slow).await;
    for mistake in ["error", "validation", "unknown_model", "oom_text"] {
        stack.client.run(json!({"do": mistake})).await;
        let ready = reqwest::get(format!("{}/ready", stack.worker.http)).await.unwrap();
        assert_eq!(ready.status(), 200, "after {mistake}: {}", ready.text().await.unwrap());
    }
    stack.client.run(json!({"do": "device_lost"})).await;
    eventually("readiness to turn red and to name the error", || async {
        let ready = reqwest::get(format!("{}/ready", stack.worker.http)).await.unwrap();
        let (status, reason) = (ready.status(), ready.json::<Value>().await.unwrap()["reason"].to_string());
        (status == 503 && reason.contains("device_lost: CUDA error: an illegal memory access")).then_some(())
    })
    .await;
    stack.worker.ready().await;
    assert_eq!(stack.worker.health().await["worker"]["reason"], Value::Null);
    assert_eq!(stack.client.run(json!({"do": "ok"})).await["status"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered_while_user_code_hangs() {
    let stack = Stack::start("puppet-handler", WorkerOptions::default()).await;
    let id = stack.client.submit(json!({"do": "freeze"})).await;
    stack.client.reaches(&id, "IN_PROGRESS").await;
    for (path, expected) in [("health", 200), ("live", 200), ("ready", 200), ("ping", 200), ("metrics", 200)] {
        let reply = reqwest::get(format!("{}/{path}", stack.worker.http)).await.unwrap();
        assert_eq!(reply.status(), expected, "{path}");
    }
    let health = stack.worker.health().await;
    assert_eq!((&health["worker"]["state"], &health["worker"]["slots"]["busy"]), (&json!("running"), &json!(1)));
}
