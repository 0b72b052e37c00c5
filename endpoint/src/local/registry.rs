//! The list of running local workers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::logs::JobLogs;
use super::manifest::Manifest;
use super::usage::{Usage, UsageMeter};

/// A worker process of this program.
#[derive(Debug, Clone)]
pub struct LocalWorker {
    /// The worker id.
    pub id: String,
    /// The process, leader of the worker's group.
    pub pid: u32,
    /// The port of its own HTTP server; `None` when the system chose one.
    pub http_port: Option<u16>,
    /// How long it has been running.
    pub uptime: Duration,
    /// What it and its children use; `None` where the system does not report it.
    pub usage: Option<Usage>,
}

/// What is known of the workers that this program runs itself. Supervisors write it, the HTTP layer reads it; it is empty
/// when there are no local workers.
#[derive(Debug, Clone, Default)]
pub struct Local(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    endpoint: OnceLock<String>,
    manifest: watch::Sender<Option<Manifest>>,
    workers: Mutex<BTreeMap<String, Entry>>,
    logs: JobLogs,
}

#[derive(Debug)]
struct Entry {
    pid: u32,
    http_port: Option<u16>,
    started: Instant,
    meter: UsageMeter,
}

impl Local {
    /// An empty list for the workers of this endpoint.
    #[must_use]
    pub fn of(endpoint: &str) -> Self {
        let local = Self::default();
        let _ = local.0.endpoint.set(endpoint.to_owned());
        local
    }

    /// The endpoint id of the workers.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.get().map(String::as_str)
    }

    /// Sets the manifest; all workers run the same handler.
    pub fn set_manifest(&self, manifest: Manifest) {
        self.0.manifest.send_replace(Some(manifest));
    }

    /// The manifest, and each one that replaces it.
    #[must_use]
    pub fn manifests(&self) -> watch::Receiver<Option<Manifest>> {
        self.0.manifest.subscribe()
    }

    /// The handler's manifest, once it is known.
    #[must_use]
    pub fn manifest(&self) -> Option<Manifest> {
        self.0.manifest.borrow().clone()
    }

    /// What the workers log about jobs.
    #[must_use]
    pub fn logs(&self) -> &JobLogs {
        &self.0.logs
    }

    /// Lists a worker until the returned guard is dropped.
    #[must_use]
    pub fn list(&self, id: &str, pid: u32, http_port: Option<u16>) -> Listed {
        let entry = Entry { pid, http_port, started: Instant::now(), meter: UsageMeter::default() };
        self.0.workers.lock().insert(id.to_owned(), entry);
        Listed { local: self.clone(), id: id.to_owned() }
    }

    /// The ids of the running workers, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.0.workers.lock().keys().cloned().collect()
    }

    /// The ports of the workers' own HTTP servers, as far as they are known.
    #[must_use]
    pub fn http_ports(&self) -> Vec<(String, u16)> {
        self.0.workers.lock().iter().filter_map(|(id, entry)| Some((id.clone(), entry.http_port?))).collect()
    }

    /// One running worker with its present usage. Reads `/proc`: call it off the event loop.
    #[must_use]
    pub fn measure(&self, id: &str) -> Option<LocalWorker> {
        let mut workers = self.0.workers.lock();
        let entry = workers.get_mut(id)?;
        Some(LocalWorker {
            id: id.to_owned(),
            pid: entry.pid,
            http_port: entry.http_port,
            uptime: entry.started.elapsed(),
            usage: entry.meter.measure(entry.pid, entry.started),
        })
    }
}

/// Keeps a worker in the list.
#[derive(Debug)]
pub struct Listed {
    local: Local,
    id: String,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.local.0.workers.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_listed_while_its_guard_lives() {
        let local = Local::of("ep");
        let listed = local.list("ep-0", std::process::id(), Some(8001));
        let worker = local.measure("ep-0").unwrap();
        let memory = worker.usage.unwrap().memory_percent;
        assert!(memory > 0.0 && memory < 100.0, "{memory}");
        drop(listed);
        assert!(local.measure("ep-0").is_none() && local.ids().is_empty());
    }
}
