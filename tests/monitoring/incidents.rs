//! Lasting incidents, all at the same time: each alert fires, and resolves when its cause has ended.
//!
//! Every incident has a worker, and jobs, of its own. The endpoint's part in them is scripted with its `--faults`.

use std::process::ExitStatus;
use std::time::Duration;

use end_to_end_tests::{Client, Daemon, Endpoint, FakeNvml, Worker, WorkerOptions, binary, eventually, worker_env};
use rustix::process::Signal;
use serde_json::json;

use crate::live::Traffic;
use crate::stack::Prometheus;

/// One result is refused for good. Those of crashes are accepted late, so that more than one scrape meets the worker before it
/// has exited.
const FAULTS: &str = r#"
[[fault]]
on = "job-done"
kind = "status"
status = 404
worker = "refused"
times = 1

[[fault]]
on = "job-done"
kind = "delay"
after = "5s"
worker = "crashing"
"#;

/// Nothing listens there: only Prometheus is looked at.
const NO_ALERTMANAGER: &str = "127.0.0.1:9";

/// A GPU with 24 GiB, of which so many are in use.
fn gpu(gib: u64) -> String {
    format!("count 1\n0.uuid GPU-aa11\n0.utilization 50\n0.memory_used {}\n0.memory_total 25769803776\n", gib << 30)
}

/// A worker, and the endpoint id of the same name that only it takes jobs from.
struct Site {
    worker: Worker,
    client: Client,
    env: Vec<(String, String)>,
}

impl Site {
    async fn start(endpoint: &Endpoint, name: &str, options: WorkerOptions) -> Self {
        let base = format!("{}/{name}", endpoint.base);
        let mut env = worker_env(&base, name);
        let spool = endpoint.folder().join("spool");
        env.push(("RUNPOD_WORKER_SPOOL_DIR".to_owned(), spool.to_string_lossy().into_owned()));
        let worker = Worker::start_with(env.clone(), &binary("puppet-handler"), options);
        worker.ready().await;
        Self { worker, client: Client::new(&base), env }
    }

    /// Another process in the place of one that has ended.
    fn replace(&mut self) {
        let http_bind = Some(self.worker.http.trim_start_matches("http://").to_owned());
        let options = WorkerOptions { http_bind, ..WorkerOptions::default() };
        self.worker = Worker::start_with(self.env.clone(), &binary("puppet-handler"), options);
    }
}

/// Waits for the end of a program, without holding up other incidents.
async fn exit(daemon: &mut Daemon) -> ExitStatus {
    eventually("a program to end", || {
        let gone = !daemon.is_running();
        async move { gone.then_some(()) }
    })
    .await;
    daemon.wait(Duration::ZERO)
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_fire_their_alerts_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("faults.toml");
    std::fs::write(&script, FAULTS).unwrap();
    // Meanwhile a job whose result was refused is given to no other worker.
    let endpoint = Endpoint::start(&["--faults", &script.to_string_lossy(), "--lease", "10m"]).await;
    // Its incident is that it hangs, so Prometheus does not scrape it: the worker reports that.
    let hanging = Endpoint::start(&[]).await;
    let nvml = FakeNvml::reporting(&gpu(6));
    let mut leaking = nvml.options();
    leaking.flags.extend(["--gpu-floor-window", "2s"].map(str::to_owned));

    let slow = Site::start(&endpoint, "slow", WorkerOptions::default()).await;
    let mut crashing = Site::start(&endpoint, "crashing", WorkerOptions::default()).await;
    let refused = Site::start(&endpoint, "refused", WorkerOptions::default()).await;
    let leaking = Site::start(&endpoint, "leaking", leaking).await;
    let cut_off = Site::start(&hanging, "cut-off", WorkerOptions::flags(&["--prefetch", "19"])).await;
    let workers = [&slow, &crashing, &refused, &leaking, &cut_off].map(|site| site.worker.http.clone());
    let prometheus = Prometheus::start(&workers.each_ref().map(String::as_str), &endpoint.base, NO_ALERTMANAGER).await;
    let prometheus = &prometheus;
    tokio::join!(
        slow_jobs(prometheus, &slow),
        a_worker_that_gives_up(prometheus, &mut crashing),
        a_result_that_is_refused(prometheus, &refused),
        a_queue_that_hangs(prometheus, &hanging, &cut_off),
        a_leak(prometheus, &nvml, &leaking),
    );
}

async fn slow_jobs(prometheus: &Prometheus, site: &Site) {
    const ALERT: &str = "RunpodLatency";
    prometheus.is_over(ALERT).await;
    let slow = Traffic::of(&site.client, json!({"do": "sleep_ms", "ms": 2500}));
    prometheus.fires(ALERT).await;
    drop(slow);
    let _fast = Traffic::of(&site.client, json!({"do": "ok"}));
    prometheus.is_over(ALERT).await;
}

/// Worker and endpoint both report it, the endpoint until another process has taken the worker's place.
async fn a_worker_that_gives_up(prometheus: &Prometheus, site: &mut Site) {
    const ALERT: &str = "RunpodUnhealthy";
    prometheus.is_over(ALERT).await;
    for _ in 0..5 {
        site.client.submit(json!({"do": "segv"})).await;
    }
    prometheus.fires_at(&site.worker.http, ALERT).await;
    prometheus.fires_for("crashing", ALERT).await;
    assert_eq!(exit(&mut site.worker.daemon).await.code(), Some(1));
    site.replace();
    prometheus.is_over(ALERT).await;
}

/// The alert fires when a result is given up, and resolves when no other one is; the result itself can be sent again.
async fn a_result_that_is_refused(prometheus: &Prometheus, site: &Site) {
    const ALERT: &str = "RunpodDeadLetters";
    prometheus.is_over(ALERT).await;
    let id = site.client.submit(json!({"do": "ok"})).await;
    prometheus.fires_at(&site.worker.http, ALERT).await;
    assert_eq!(site.client.status(&id).await["status"], "IN_PROGRESS");
    let args = ["dead-letters", "resend", &id].map(str::to_owned);
    let mut resend = Daemon::start("dead-letters", &binary("runpod-worker"), &args, &site.env);
    assert!(exit(&mut resend).await.success(), "{}", resend.log());
    assert_eq!(site.client.status(&id).await["status"], "COMPLETED");
    prometheus.is_over(ALERT).await;
}

/// An endpoint that accepts connections and answers nothing, while a worker finishes jobs of it.
async fn a_queue_that_hangs(prometheus: &Prometheus, endpoint: &Endpoint, site: &Site) {
    const ALERTS: [&str; 2] = ["RunpodHeartbeatLate", "RunpodOutboxGrowing"];
    for alert in ALERTS {
        prometheus.is_over(alert).await;
    }
    let silence = endpoint.folder().join("silence");
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(site.client.submit(json!({"do": "wait_for", "path": silence})).await);
    }
    for id in &jobs {
        site.client.reaches(id, "IN_PROGRESS").await;
    }
    endpoint.daemon.signal(Signal::STOP);
    std::fs::write(silence, "").unwrap();
    for alert in ALERTS {
        prometheus.fires_at(&site.worker.http, alert).await;
    }
    endpoint.daemon.signal(Signal::CONT);
    for alert in ALERTS {
        prometheus.is_over(alert).await;
    }
    for id in &jobs {
        assert_eq!(site.client.finished(id).await["status"], "COMPLETED");
    }
}

/// Every job leaves a GiB behind. Not before the worker is old enough: what a young one takes may be its model.
async fn a_leak(prometheus: &Prometheus, nvml: &FakeNvml, site: &Site) {
    const ALERT: &str = "RunpodGpuMemoryFloorRising";
    prometheus.is_over(ALERT).await;
    let old = "runpod_worker_uptime_seconds > 20 and on (instance) runpod_gpu_memory_floor_bytes";
    prometheus.has_answer("a worker that is old enough", old).await;
    for gib in 7..=9 {
        site.client.run(json!({"do": "ok"})).await;
        nvml.report(&gpu(gib));
    }
    prometheus.fires_at(&site.worker.http, ALERT).await;
    prometheus.is_over(ALERT).await;
}
