//! Overflow: jobs that wait for too long are run by another endpoint, RunPod's or one of this kind.
//!
//! For the store this is one more worker, [`OVERFLOW`](crate::store::OVERFLOW): it takes jobs, sends heartbeats for those it holds, obeys
//! stop signals, and reports results. Instead of a handler it has a client of the other endpoint, "the far one".

mod cancel;
mod client;
mod counts;
mod follow;
mod forwarder;
pub(crate) mod limits;
mod settings;
mod spending;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use client::FarEndpoint;
pub use counts::{HeldBack, OverflowCounts, OverflowTotals};
use forwarder::Forwarder;
pub use settings::{OverflowConfig, OverflowError, OverflowSettings};

use crate::store::Store;

/// The overflow of all endpoints that have one.
pub struct Overflow {
    forwarders: Vec<Forwarder>,
}

impl Overflow {
    /// An overflow for the endpoints in `settings`, by their ids. Results may have `max_result_bytes`. With `resumes` the store outlives
    /// this program: jobs that the far endpoint runs at a shutdown are left to it, and found again by the next process; without, they
    /// are cancelled there.
    ///
    /// # Errors
    /// When the TLS settings of this machine are unusable.
    pub fn new(
        store: &Arc<dyn Store>,
        settings: BTreeMap<String, OverflowSettings>,
        max_result_bytes: usize,
        resumes: bool,
        counts: &OverflowCounts,
    ) -> Result<Self, OverflowError> {
        let forwarder = |(endpoint, settings): (String, OverflowSettings)| {
            let far = FarEndpoint::new(&settings, max_result_bytes)?;
            let counts = counts.of(&endpoint);
            Ok(Forwarder::new(Arc::clone(store), Arc::from(endpoint), far, settings, counts, resumes))
        };
        Ok(Self { forwarders: settings.into_iter().map(forwarder).collect::<Result<_, OverflowError>>()? })
    }

    /// Runs in the background. Once `drain` is cancelled, it takes no more jobs; `shutdown` ends it within seconds, after which the
    /// task is over.
    pub fn start(self, drain: &CancellationToken, shutdown: &CancellationToken) -> JoinHandle<()> {
        let runs: Vec<_> =
            self.forwarders.into_iter().map(|forwarder| forwarder.run(drain.clone(), shutdown.clone())).collect();
        tokio::spawn(async move {
            futures_util::future::join_all(runs).await;
        })
    }
}
