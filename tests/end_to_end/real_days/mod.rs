//! What breaks when the programs are used hard, restarted, misconfigured and attacked: one file a theme.

mod attacks;
mod capacity;
mod data_file;
mod descendants;
mod goodbye;
mod hand_back;
mod late_stops;
mod output;
mod recovery;
mod settings;
mod signals;
mod twins;

use std::path::Path;
use std::time::Duration;

use end_to_end_tests::{Client, Endpoint, Worker, WorkerOptions, binary};
use serde_json::{Value, json};

/// Longest time for a worker or an endpoint to end.
const END: Duration = Duration::from_secs(30);

/// A worker of this endpoint with the puppet, ready.
async fn worker(endpoint: &Endpoint, id: &str, flags: &[&str]) -> Worker {
    let worker = Worker::start_with(endpoint.worker_env(id), &binary("puppet-handler"), WorkerOptions::flags(flags));
    worker.ready().await;
    worker
}

/// Submits a job that ends when there is a file at this path, and waits until it runs.
async fn running(client: &Client, path: &Path) -> String {
    let id = client.submit(json!({"do": "wait_for", "path": path})).await;
    client.reaches(&id, "IN_PROGRESS").await;
    id
}

/// A process and all that descend from it.
fn family(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        next += 1;
    }
    family
}

/// Whether a process is there and no zombie.
fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Resident memory of a process in MiB.
fn resident_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

/// The counters of workers on the endpoint's health document that are not zero.
fn workers(health: &Value) -> Vec<String> {
    let counters = health["workers"].as_object().unwrap();
    counters.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}")).collect()
}
