//! GPU, container and ports as an operator sees them. The driver is a fake; the worker opens and calls it as it would a
//! real one.

use std::time::Duration;

use end_to_end_tests::{FakeNvml, Stack, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Two GPUs: one that reports every figure, one that reports few.
const TWO_GPUS: &str = "\
count 2
0.uuid GPU-aa11
0.name NVIDIA L4
0.utilization 57
0.memory_used 6442450944
0.memory_total 25769803776
0.power 71500
0.temperature 66
0.throttle 0x4
0.ecc 3
0.xids 0
0.xid 31
1.uuid GPU-bb22
1.temperature 40
";

/// The worker's health, once its `runtime.gpus` looks like this.
async fn health_when(stack: &Stack, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        let health = stack.worker.health().await;
        is_so(&health["runtime"]["gpus"]).then_some(health)
    })
    .await
}

/// The worker's health, once it is in this state.
async fn health_in_state(stack: &Stack, state: &str) -> Value {
    eventually(state, || async {
        let health = stack.worker.health().await;
        (health["worker"]["state"] == state).then_some(health)
    })
    .await
}

/// The samples of metrics whose names begin so.
fn samples(metrics: &str, prefix: &str) -> Vec<String> {
    metrics.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
}

#[tokio::test]
async fn health_and_metrics_show_what_the_driver_and_the_allocator_say() {
    let nvml = FakeNvml::reporting(TWO_GPUS);
    let options = nvml.options().env("PUPPET_START", "raw_on_gpu").env("CUDA_VISIBLE_DEVICES", "GPU-bb,0");
    let stack = Stack::start("puppet-handler", options).await;
    let id = stack.client.submit(json!({})).await;
    stack.client.finished(&id).await;

    let health = health_when(&stack, "the floor between jobs", |gpus| gpus[1]["memoryFloorBytes"].is_u64()).await;
    let little = json!({
        "id": "GPU-bb22", "index": 0, "temperatureCelsius": 40.0,
        "allocatedBytes": 1_000_000, "reservedBytes": 3_000_000, "peakBytes": 2_000_000,
    });
    let much = json!({
        "id": "GPU-aa11", "index": 1, "name": "NVIDIA L4", "gpuUtilPercent": 57.0, "memoryUtilPercent": 25.0,
        "memoryUsedBytes": 6_442_450_944_u64, "memoryTotalBytes": 25_769_803_776_u64,
        "memoryFloorBytes": 6_442_450_944_u64, "powerWatts": 71.5, "temperatureCelsius": 66.0,
        "throttleReasons": ["sw_power_cap"], "eccErrors": 3, "xidErrors": 0,
    });
    assert_eq!(health["runtime"]["gpus"], json!([little, much]));

    let metrics = stack.worker.metrics().await;
    for sample in [
        "runpod_gpu_utilization_ratio{gpu=\"1\"} 0.57",
        "runpod_gpu_memory_used_bytes{gpu=\"1\"} 6442450944.0",
        "runpod_gpu_memory_total_bytes{gpu=\"1\"} 25769803776.0",
        "runpod_gpu_memory_floor_bytes{gpu=\"1\"} 6442450944.0",
        "runpod_gpu_power_watts{gpu=\"1\"} 71.5",
        "runpod_gpu_temperature_celsius{gpu=\"0\"} 40.0",
        "runpod_gpu_slowed_down{gpu=\"1\",reason=\"sw_power_cap\"} 1.0",
        "runpod_gpu_slowed_down{gpu=\"1\",reason=\"hw_thermal\"} 0.0",
        "runpod_gpu_ecc_errors_total{gpu=\"1\"} 3.0",
        "runpod_gpu_xid_errors_total{gpu=\"1\"} 0.0",
        "runpod_gpu_allocated_bytes{device=\"cuda:0\"} 1000000.0",
        "runpod_gpu_reserved_bytes{device=\"cuda:0\"} 3000000.0",
    ] {
        assert!(metrics.lines().any(|line| line == sample), "no {sample} in:\n{metrics}");
    }
    assert_eq!(samples(&metrics, "runpod_gpu_power_watts").len(), 1, "the other card does not report it");

    nvml.report(&TWO_GPUS.replace("0.xids 0", "0.xids 2").replace("utilization 57", "utilization 100"));
    let health = health_when(&stack, "two critical errors", |gpus| gpus[1]["xidErrors"] == 2).await;
    let gpu = &health["runtime"]["gpus"][1];
    assert_eq!((&gpu["lastXid"], &gpu["gpuUtilPercent"]), (&json!(31), &json!(100.0)));
    assert_eq!(stack.worker.daemon.log().matches("critical error of a GPU").count(), 2);
}

#[tokio::test]
async fn a_hot_gpu_is_throttled_or_running_with_the_reason_beside_it() {
    const HOT: &str = "count 1\n0.throttle 0x28\n";
    let nvml = FakeNvml::reporting("count 1\n0.throttle 0x1\n");
    let stack = Stack::start("puppet-handler", nvml.options()).await;
    health_in_state(&stack, "idle").await;
    nvml.report(HOT);
    let health = health_in_state(&stack, "throttled").await;
    let reason = "GPU 0 is slowed down (sw_thermal, hw_slowdown)";
    assert_eq!(health["worker"]["reason"], reason);
    assert_eq!((&health["workers"]["throttled"], &health["workers"]["idle"]), (&json!(1), &json!(0)));
    stack.worker.ready().await;

    let id = stack.client.submit(json!({"do": "check_cancel"})).await;
    let health = health_in_state(&stack, "running").await;
    assert_eq!(health["worker"]["reason"], reason);
    assert_eq!(health["runtime"]["gpus"][0]["throttleReasons"], json!(["sw_thermal", "hw_slowdown"]));
    stack.client.cancel(&id).await;
    health_in_state(&stack, "throttled").await;

    nvml.report("count 1\n0.throttle 0x0\n");
    let health = health_in_state(&stack, "idle").await;
    assert_eq!(health["worker"].get("reason"), None);
    let log = stack.worker.daemon.log();
    assert!(log.contains(reason) && log.contains("No GPU is slowed down any more"), "{log}");
}

#[tokio::test]
async fn without_a_driver_gpus_are_absent_and_one_line_says_so() {
    let stack = Stack::start("puppet-handler", FakeNvml::broken().options()).await;
    eventually("the log to say so", || async {
        stack.worker.daemon.log().contains("There are no GPU figures").then_some(())
    })
    .await;
    let health = stack.worker.health().await;
    let runtime = health["runtime"].as_object().unwrap();
    assert!(!runtime.contains_key("gpus"), "{health}");
    assert_eq!(samples(&stack.worker.metrics().await, "runpod_gpu"), [""; 0]);
    assert_eq!(stack.worker.daemon.log().matches("GPU").count(), 1, "{}", stack.worker.daemon.log());
}

#[tokio::test]
async fn the_container_and_its_ports_are_shown() {
    let options =
        FakeNvml::broken().options().env("RUNPOD_PUBLIC_IP", "203.0.113.7").env("RUNPOD_TCP_PORT_22", "10341");
    let stack = Stack::start("puppet-handler", options).await;
    let runtime = stack.worker.health().await["runtime"].clone();
    let memory = runtime["container"]["memoryPercent"].as_f64().unwrap();
    assert!(memory > 0.0 && memory <= 100.0, "{runtime}");
    let own: u16 = stack.worker.http.rsplit_once(':').unwrap().1.parse().unwrap();
    let ports = json!([
        {"ip": "127.0.0.1", "isIpPublic": false, "privatePort": own, "publicPort": own, "type": "http"},
        {"ip": "203.0.113.7", "isIpPublic": true, "privatePort": 22, "publicPort": 10341, "type": "tcp"},
    ]);
    assert_eq!(runtime["ports"], ports);
    let metrics = stack.worker.metrics().await;
    assert_eq!(samples(&metrics, "runpod_container_memory").len(), 2, "{metrics}");
}

#[tokio::test]
async fn a_driver_that_hangs_stops_nothing() {
    let nvml = FakeNvml::reporting(TWO_GPUS);
    let mut stack = Stack::start("puppet-handler", nvml.options()).await;
    health_when(&stack, "the GPUs", |gpus| gpus[0]["id"] == "GPU-aa11").await;
    nvml.report(&format!("hang 1\n{TWO_GPUS}"));
    let id = stack.client.submit(json!({"do": "ok"})).await;
    assert_eq!(stack.client.finished(&id).await["status"], "COMPLETED");
    health_when(&stack, "figures that are no longer reported to be gone", Value::is_null).await;
    assert_eq!(samples(&stack.worker.metrics().await, "runpod_gpu"), [""; 0]);
    stack.worker.daemon.signal(Signal::TERM);
    assert_eq!(stack.worker.daemon.wait(Duration::from_secs(30)).code(), Some(0));
    assert!(stack.worker.daemon.log().contains("The GPU driver does not answer"));
}
