//! Undelivered results.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{count, register, set_total};
use crate::outbox::OutboxStats;
use runpod_worker_core::Snapshot;

#[derive(Debug)]
pub(super) struct OutboxMetrics {
    results: Gauge,
    bytes: Gauge,
    spooled: Gauge,
    dead_letters: Gauge,
    retries: Counter,
    lost_chunks: Counter,
}

impl OutboxMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            results: register(
                r,
                "runpod_worker_outbox_results",
                "Results the platform has not accepted yet",
                Gauge::default(),
            ),
            bytes: register(r, "runpod_worker_outbox_bytes", "Undelivered bytes in memory", Gauge::default()),
            spooled: register(r, "runpod_worker_spooled_results", "Undelivered results on disk", Gauge::default()),
            dead_letters: register(
                r,
                "runpod_worker_dead_letters",
                "Results given up since the start: refused for good, or too old",
                Gauge::default(),
            ),
            retries: register(
                r,
                "runpod_worker_delivery_retries",
                "Tries to deliver after which another one was needed",
                Counter::default(),
            ),
            lost_chunks: register(r, "runpod_worker_lost_chunks", "Chunks given up", Counter::default()),
        }
    }

    pub(super) fn publish(&self, snapshot: &Snapshot) {
        self.results.set(count(snapshot.jobs.delivering));
    }

    pub(super) fn sample(&self, stats: &OutboxStats) {
        self.bytes.set(count(stats.held_bytes));
        self.spooled.set(stats.spool.as_ref().map_or(0, |spool| count(spool.results)));
        self.dead_letters.set(count(stats.dead_letters));
        set_total(&self.retries, stats.retries);
        set_total(&self.lost_chunks, stats.lost_chunks);
    }
}
