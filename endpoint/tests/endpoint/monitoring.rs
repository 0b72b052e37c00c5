//! `/metrics`, `/ready`, `/live` and `/ping` of the server itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use end_to_end_tests::{Daemon, Postgres, eventually, repository, until};
use runpod_endpoint::api::{Keys, Options, Secret};
use runpod_endpoint::monitoring::Monitoring;
use runpod_endpoint::overflow::{Overflow, OverflowConfig, OverflowCounts};
use runpod_endpoint::store::{
    Limits, MemoryStore, PostgresStore, SqliteStore, Status, Store, WebhookOutcomes, WebhookQueue, WorkerEvent,
};
use runpod_endpoint::webhooks::{Guard, TargetCheck, Webhooks};
use rusqlite::Connection;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::{Api, SOON};

/// An API whose requests are counted, and the routes that tell.
fn watched(api: &Api, endpoints: &[&str], webhooks: WebhookOutcomes) -> Api {
    let endpoints = endpoints.iter().map(|&id| id.to_owned()).collect();
    let monitoring = Monitoring::new(Arc::clone(&api.app.store), endpoints, webhooks, api.app.drain.clone());
    Api { router: monitoring.watch(api.router.clone()), app: api.app.clone() }
}

fn monitored() -> Api {
    watched(&Api::new(), &["ep"], WebhookOutcomes::default())
}

async fn get(router: &Router, path: &str) -> (StatusCode, HeaderMap, String) {
    let reply = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = reply.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    (parts.status, parts.headers, text)
}

async fn scrape(router: &Router) -> String {
    let (status, headers, text) = get(router, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

#[tokio::test]
async fn a_scraper_that_asks_for_the_older_format_gets_it() {
    let api = monitored();
    // Scrapes are counted.
    let open_metrics = [scrape(&api.router).await, scrape(&api.router).await];
    let request = Request::get("/metrics").header("accept", "text/plain;version=0.0.4;q=1,*/*;q=0.1");
    let reply = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(reply.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(to_bytes(reply.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap();
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    let counters = text.lines().filter(|line| line.starts_with("# TYPE ") && line.ends_with(" counter"));
    assert!(counters.clone().count() > 3 && counters.clone().all(|line| line.contains("_total ")), "{text}");
    let names = |text: &str| series(text).into_keys().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&text), names(&open_metrics[1]), "the series are the same");
}

#[tokio::test]
async fn a_database_is_measured_and_each_figure_is_in_the_documents() {
    let Some(server) = Postgres::shared() else { return };
    let store = PostgresStore::open(server.database().parse().unwrap(), Limits::default()).await.unwrap();
    let api = watched(&Api::build(Keys::default(), Options::default(), store), &["ep"], WebhookOutcomes::default());
    api.run(r#"{"input": 1}"#).await;
    let text = scrape(&api.router).await;
    let prefix = "runpod_endpoint_database_";
    let figures: BTreeMap<&str, f64> =
        series(&text).into_iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value))).collect();
    assert_eq!((figures["up"], figures["replicas"], figures["connections_allowed"]), (1.0, 1.0, 400.0));
    assert!(figures["transactions_total"] >= 1.0 && figures["transaction_seconds_total"] > 0.0, "{figures:?}");
    assert!(figures["latency_seconds"] > 0.0 && figures["connections"] >= 1.0, "{figures:?}");
    let guide = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let listed: Vec<&str> =
        guide.lines().filter_map(|line| line.strip_prefix("| `")?.strip_prefix(prefix)?.split('`').next()).collect();
    assert_eq!(listed.iter().copied().collect::<std::collections::BTreeSet<_>>(), figures.into_keys().collect());
}

/// Whether or not this user may see what senders of the log do.
#[tokio::test]
async fn a_base_backup_is_no_standby() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database();
    let name = url.rsplit('/').next().unwrap();
    server.sql(&url, &format!("CREATE ROLE owner LOGIN PASSWORD 'owner'; ALTER DATABASE {name} OWNER TO owner"));
    let owned = server.url_of("owner", "owner", name);
    let standbys = async |url: &str| {
        let store = PostgresStore::open(url.parse().unwrap(), Limits::default()).await.unwrap();
        store.database().unwrap().standbys
    };
    // The owner of the tables is the first one to open them.
    assert_eq!(standbys(&owned).await, 0);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("backup").display().to_string();
    let args = ["-D", &target, "-d", &url, "-X", "stream", "-c", "fast", "--max-rate", "32k"].map(str::to_owned);
    let backup = Daemon::start("backup", std::path::Path::new("pg_basebackup"), &args, &[]);
    let senders =
        || server.sql(&url, "SELECT count(*) FROM pg_stat_replication WHERE state IN ('backup', 'streaming')");
    until("the backup and its log to be on their way", || senders() == "2").await;
    assert_eq!((standbys(&url).await, standbys(&owned).await), (0, 0));
    drop(backup);
    let standby = server.standby();
    until("the standby to stream", || senders() == "1").await;
    until("it to have applied something", || {
        server.sql(&url, "SELECT count(replay_lsn) FROM pg_stat_replication") == "1"
    })
    .await;
    assert_eq!((standbys(&url).await, standbys(&owned).await), (1, 1));
    drop(standby);
}

/// Every series with its value.
fn series(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').map(|(name, value)| (name, value.parse().unwrap())).unwrap()).collect()
}

/// Jobs with every end there is: completed, failed, cancelled, timed out, expired, lost and retried. Two are left.
async fn mixed_load(api: &Api) {
    for input in 0..4 {
        api.run(&json!({"input": input}).to_string()).await;
    }
    sleep(Duration::from_secs(2)).await;
    let completed = api.take("w1").await;
    sleep(Duration::from_secs(3)).await;
    api.done("w1", &completed, r#"{"output": 1}"#).await;
    let failed = api.take("w1").await;
    api.done("w1", &failed, r#"{"error": "no"}"#).await;
    let lost = api.take("w2").await;
    api.app.store.worker_event("ep", "w2", WorkerEvent::Gone).await.unwrap();
    assert_eq!(api.take("w1").await, lost);
    let waiting = api.run(r#"{"input": 5}"#).await;
    api.post(&format!("cancel/{waiting}"), "").await;
    api.run(r#"{"input": 6, "policy": {"ttl": 10000, "lowPriority": true}}"#).await;
    let slow = api.run(r#"{"input": 7, "policy": {"executionTimeout": 5000}}"#).await;
    let rest = api.get("job-take-batch/w3?batch_size=2").await.json();
    assert_eq!(rest[1]["id"], json!(slow));
    sleep(Duration::from_secs(16)).await;
    api.run(r#"{"input": 8}"#).await;
    api.get("status/unknown").await;
    sleep(Duration::from_secs(1)).await;
}

/// `/metrics` after that, of an endpoint that reports timeouts as such.
pub(crate) async fn text_after_a_mixed_load() -> String {
    let api = Api::build(
        Keys::default(),
        Options::default(),
        MemoryStore::new(Limits { timeout_status: Status::TimedOut, ..Limits::default() }),
    );
    let config: OverflowConfig = toml::from_str("url = \"http://127.0.0.1:9/v2/far\"\nafter = \"1h\"").unwrap();
    let (settings, counts) = (BTreeMap::from([("ep".to_owned(), config.open().unwrap())]), OverflowCounts::default());
    Overflow::new(&api.app.store, settings, 1 << 20, false, &counts).unwrap();
    let endpoints = vec!["ep".to_owned(), "unused".to_owned()];
    let drain = api.app.drain.clone();
    let monitoring = Monitoring::new(Arc::clone(&api.app.store), endpoints, WebhookOutcomes::default(), drain);
    let router = monitoring.with_overflow(counts).watch(api.router.clone());
    let api = Api { router, app: api.app.clone() };
    mixed_load(&api).await;
    scrape(&api.router).await
}

#[tokio::test(start_paused = true)]
async fn the_text_after_a_mixed_load() {
    insta::assert_snapshot!("metrics", text_after_a_mixed_load().await);
}

#[tokio::test(start_paused = true)]
async fn the_counters_agree_with_health() {
    let api = monitored();
    mixed_load(&api).await;
    let text = scrape(&api.router).await;
    let metrics = series(&text);
    let health = api.get("health").await.json();
    let value = |name: &str| metrics[name] as u64;
    let jobs = |status: &str| value(&format!(r#"runpod_endpoint_jobs_total{{endpoint="ep",status="{status}"}}"#));
    assert_eq!(json!(jobs("completed")), health["jobs"]["completed"]);
    assert_eq!(json!(jobs("failed") + jobs("timed_out")), health["jobs"]["failed"]);
    for (metric, counter) in [
        ("runpod_endpoint_jobs_retried_total", "retried"),
        ("runpod_endpoint_queue_depth", "inQueue"),
        ("runpod_endpoint_jobs_in_progress", "inProgress"),
    ] {
        assert_eq!(json!(value(&format!(r#"{metric}{{endpoint="ep"}}"#))), health["jobs"][counter], "{metric}");
    }
    for state in ["idle", "initializing", "running", "throttled", "unhealthy"] {
        let metric = value(&format!(r#"runpod_endpoint_workers{{endpoint="ep",state="{state}"}}"#));
        assert_eq!(json!(metric), health["workers"][state], "{state}");
    }
    let started = value(r#"runpod_endpoint_job_delay_seconds_count{endpoint="ep"}"#);
    assert_eq!(started + health["jobs"]["retried"].as_u64().unwrap(), jobs("in_progress"));
}

#[tokio::test(start_paused = true)]
async fn mistakes_of_callers_are_counted_apart_and_are_failed_jobs_too() {
    let api = monitored();
    for kind in ["validation", "validation", "model_not_found", "inference_error"] {
        let id = api.run(r#"{"input": 1}"#).await;
        api.take("w1").await;
        let body = json!({"error": json!({"error_type": kind, "error_message": "why"}).to_string()}).to_string();
        for _ in 0..2 {
            api.done("w1", &id, &body).await;
        }
    }
    let text = scrape(&api.router).await;
    let metrics = series(&text);
    assert_eq!(metrics[r#"runpod_endpoint_jobs_total{endpoint="ep",status="failed"}"#], 4.0);
    for (kind, jobs) in [("validation", 2.0), ("model_not_found", 1.0)] {
        let name = format!(r#"runpod_endpoint_caller_mistakes_total{{endpoint="ep",kind="{kind}"}}"#);
        assert_eq!(metrics[&*name], jobs, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_batches_are_counted_apart() {
    let api = monitored();
    api.run(r#"{"input": 1}"#).await;
    let batch = api.post("batch", r#"[{"input": 1}, {"input": 2}, {"input": 3}]"#).await.field("id");
    let of_batches = |text: &str| {
        let of =
            |status| series(text)[&*format!(r#"runpod_endpoint_batch_requests{{endpoint="ep",status="{status}"}}"#)];
        (of("in_queue"), of("in_progress"))
    };
    assert_eq!(of_batches(&scrape(&api.router).await), (0.0, 0.0), "a draft waits for nothing");
    api.post(&format!("batch/{batch}/finalize"), "").await;
    sleep(Duration::from_secs(100)).await;
    api.take("w1").await;
    api.take("w1").await;
    let text = scrape(&api.router).await;
    assert_eq!(of_batches(&text), (2.0, 1.0));
    for name in ["runpod_endpoint_queue_depth", "runpod_queue_depth", "runpod_endpoint_oldest_wait_seconds"] {
        assert_eq!(series(&text)[&*format!(r#"{name}{{endpoint="ep"}}"#)], 0.0, "{name}");
    }
    assert_eq!(depths(&api).await, [r#"job_queue_depth{endpoint="ep",model="unknown",version="unknown"} 0.0"#]);
    assert_eq!(api.get("health").await.json()["jobs"]["inQueue"], 2, "as on the platform");
}

/// The depth of the queue by model, as a scrape shows it.
async fn depths(api: &Api) -> Vec<String> {
    let text = scrape(&api.router).await;
    text.lines().filter(|line| line.starts_with("job_queue_depth{")).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn what_waits_has_the_names_that_rules_use_and_the_model_of_the_worker_that_was_new_last() {
    let api = monitored();
    for _ in 0..3 {
        api.run(r#"{"input": 1}"#).await;
    }
    let shown = |model: &str, version: &str, jobs: usize| {
        vec![format!(r#"job_queue_depth{{endpoint="ep",model="{model}",version="{version}"}} {jobs}.0"#)]
    };
    assert_eq!(depths(&api).await, shown("unknown", "unknown", 3), "no worker has said it");
    let ping = |worker: &'static str, query: &'static str| {
        let (api, path) = (&api, format!("ping/{worker}?{query}"));
        async move { api.get(&path).await }
    };
    ping("w1", "model=bert&model_version=1").await;
    assert_eq!(depths(&api).await, shown("bert", "1", 3));
    assert_eq!(series(&scrape(&api.router).await)[r#"runpod_queue_depth{endpoint="ep"}"#], 3.0);
    ping("w2", "model=bert&model_version=2").await;
    for (worker, query) in [("w1", "model=bert&model_version=1"), ("w3", ""), ("w1", "model=bert")] {
        ping(worker, query).await;
        assert_eq!(depths(&api).await, shown("bert", "2", 3), "{worker} says nothing new");
    }
    // Another build behind the same worker id.
    ping("w1", "model=bert&model_version=3").await;
    api.take("w1").await;
    assert_eq!(depths(&api).await, shown("bert", "3", 2), "a job that was taken waits no more");
    let long = "x".repeat(100);
    api.get(&format!("ping/w9?model={long}%0A%22&model_version=1%0A%22")).await;
    assert_eq!(depths(&api).await, shown(&long[..64], r#"1\""#, 2), "cut, and without line breaks");
}

#[tokio::test(start_paused = true)]
async fn series_do_not_grow_with_jobs_or_odd_requests() {
    let api = monitored();
    mixed_load(&api).await;
    for path in ["/x", "/v2/ep/status/x", "/v2/ep/health"] {
        get(&api.router, path).await;
    }
    api.post("purge-queue", "").await;
    scrape(&api.router).await;
    let before = scrape(&api.router).await;
    for round in 0..20 {
        api.post("purge-queue", "").await;
        mixed_load(&api).await;
        for path in ["/x", "/v2/ep/x", "/v2/ep/status/x", "/v2/other-endpoint/health"] {
            get(&api.router, &format!("{path}{round}")).await;
        }
    }
    let after = scrape(&api.router).await;
    assert_eq!(series(&before).into_keys().collect::<Vec<_>>(), series(&after).into_keys().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn endpoints_beyond_the_bound_share_a_label() {
    let api = monitored();
    scrape(&api.router).await;
    for number in 0..100 {
        let run = Request::post(format!("/v2/ep-{number}/run")).body(Body::from(r#"{"input": 1}"#)).unwrap();
        assert_eq!(api.send(run).await.status, StatusCode::OK);
    }
    let text = scrape(&api.router).await;
    let metrics = series(&text);
    let depths = metrics.iter().filter(|(name, _)| name.starts_with("runpod_endpoint_queue_depth"));
    let depths: Vec<_> = depths.map(|(_, depth)| *depth).collect();
    assert_eq!((depths.len(), depths.iter().sum::<f64>()), (65, 100.0));
    assert_eq!(metrics[r#"runpod_endpoint_queue_depth{endpoint="other"}"#], 37.0);
    // Several models may share that label.
    assert_eq!(metrics[r#"job_queue_depth{endpoint="other",model="unknown",version="unknown"}"#], 37.0);
}

#[tokio::test]
async fn a_scrape_under_load_is_whole_and_counters_only_grow() {
    let api = monitored();
    let load = |worker: &'static str| {
        let api = api.clone();
        async move {
            for _ in 0..50 {
                api.run(r#"{"input": 1}"#).await;
                let id = api.take(worker).await;
                api.done(worker, &id, r#"{"output": 1}"#).await;
            }
        }
    };
    let scrapes = async {
        let completed = r#"runpod_endpoint_jobs_total{endpoint="ep",status="completed"}"#;
        let mut last = 0.0;
        while last < 150.0 {
            let text = scrape(&api.router).await;
            let now = series(&text)[completed];
            assert!(now >= last, "{now} after {last}");
            last = now;
            tokio::task::yield_now().await;
        }
    };
    let all = async { tokio::join!(load("w1"), load("w2"), load("w3"), scrapes) };
    timeout(SOON, all).await.unwrap();
}

#[tokio::test]
async fn no_key_is_asked_for_and_none_is_shown() {
    let keys = Keys {
        client: Some(Secret::from("s3cret")).into(),
        worker: Some(Secret::from("w0rker")).into(),
        ..Keys::default()
    };
    let api = watched(&Api::with(keys), &["ep"], WebhookOutcomes::default());
    assert_eq!(api.get("health").await.status, StatusCode::UNAUTHORIZED);
    for path in ["/ready", "/live", "/ping"] {
        assert_eq!(get(&api.router, path).await.0, StatusCode::OK, "{path}");
    }
    let text = scrape(&api.router).await;
    assert!(text.contains(r#"runpod_endpoint_http_requests_total{operation="health",status="4xx"} 1"#), "{text}");
    assert!(text.contains(r#"runpod_endpoint_http_requests_total{operation="probe",status="2xx"} 3"#), "{text}");
    assert!(!text.contains("s3cret") && !text.contains("w0rker"));
}

#[tokio::test]
async fn webhooks_are_counted_by_how_they_end() {
    let (queue, due) = WebhookQueue::channel();
    let outcomes = queue.outcomes();
    let setup = runpod_endpoint::store::Setup { webhooks: queue, ..Default::default() };
    // What is accepted here is refused by the deliverer.
    let options =
        Options { webhooks: TargetCheck::new(Guard::new(&["127.0.0.0/8".parse().unwrap()])), ..Options::default() };
    let api = Api::build(Keys::default(), options, MemoryStore::new(setup));
    let api = watched(&api, &[], outcomes.clone());
    let webhooks = Webhooks::new(Arc::clone(&api.app.store), Guard::new(&[]), None).unwrap();
    let delivering = tokio::spawn(webhooks.counting(outcomes).run(due, CancellationToken::new()));
    // An address that is not public is refused for good.
    let id = api.run(r#"{"input": 1, "webhook": "http://127.0.0.1:1/hook"}"#).await;
    api.take("w1").await;
    api.done("w1", &id, r#"{"output": 1}"#).await;
    let router = &api.router;
    eventually("a failed delivery", || async {
        scrape(router).await.contains(r#"{outcome="failed"} 1"#).then_some(())
    })
    .await;
    delivering.abort();
}

#[tokio::test]
async fn readiness_follows_the_data_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file, Limits::default()).unwrap());
    let monitoring = Monitoring::new(store.clone(), Vec::new(), WebhookOutcomes::default(), CancellationToken::new());
    let router = monitoring.watch(Router::new());
    assert_eq!(get(&router, "/ready").await.2, r#"{"state":"ready"}"#);

    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.worker_event("ep", "w1", WorkerEvent::Starting).await.unwrap();
    let router = &router;
    eventually("not ready", || async {
        (get(router, "/ready").await.0 == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    let text = get(router, "/ready").await.2;
    assert!(text.contains(r#""state":"unavailable""#) && text.contains("database is locked"), "{text}");
    let ping = get(router, "/ping").await;
    assert_eq!((ping.0, ping.2), (StatusCode::SERVICE_UNAVAILABLE, text));
    assert_eq!(get(router, "/live").await.2, r#"{"state":"live"}"#);

    other.execute_batch("ROLLBACK").unwrap();
    eventually("ready", || async { (get(router, "/ready").await.0 == StatusCode::OK).then_some(()) }).await;
    assert_eq!(get(router, "/ping").await.2, r#"{"state":"ready"}"#);
}

#[tokio::test]
async fn a_server_that_is_stopping_is_not_ready() {
    let api = monitored();
    api.app.drain.cancel();
    let (status, _, text) = get(&api.router, "/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, r#"{"state":"draining","reason":"the endpoint is shutting down"}"#);
}

#[tokio::test]
async fn counters_start_at_zero_with_the_program_and_those_of_health_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let store = SqliteStore::open(&folder.path().join("jobs.db"), Limits::default()).unwrap();
        Api::build(Keys::default(), Options::default(), store)
    };
    let api = open();
    let id = api.run(r#"{"input": 1}"#).await;
    api.take("w1").await;
    api.done("w1", &id, r#"{"output": 1}"#).await;
    let before = api.app.store.observe("ep").await.unwrap();
    assert_eq!((before.health.completed, before.totals.completed), (1, 1));
    drop(api);
    let after = open().app.store.observe("ep").await.unwrap();
    assert_eq!((after.health.completed, after.totals.completed), (1, 0));
}
