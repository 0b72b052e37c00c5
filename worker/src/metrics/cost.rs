//! GPU time and its price.

use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::{Sum, UseOf, register, set_sum};
use runpod_worker_core::{GpuUse, Snapshot};

#[derive(Debug)]
pub(super) struct CostMetrics {
    gpu_time: Family<UseOf, Sum>,
    dollars: Family<UseOf, Sum>,
}

impl CostMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            gpu_time: register(
                r,
                "runpod_worker_gpu_seconds",
                "Time of handler processes, each standing for one GPU, by use",
                Family::default(),
            ),
            dollars: register(
                r,
                "runpod_worker_cost_dollars",
                "Price of the GPU time, by use, with --price-per-hour",
                Family::default(),
            ),
        }
    }

    pub(super) fn publish(&self, snapshot: &Snapshot) {
        for what in GpuUse::ALL {
            let (label, time) = (UseOf { r#use: what.as_str() }, snapshot.gpu_time.of(what));
            set_sum(&self.gpu_time.get_or_create(&label), time.as_secs_f64());
            if let Some(price) = snapshot.price {
                set_sum(&self.dollars.get_or_create(&label), price.of(time));
            }
        }
    }
}
