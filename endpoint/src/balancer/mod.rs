//! Load balancing: an endpoint without a queue, whose workers answer HTTP themselves. As RunPod's load-balancing endpoints.
//!
//! `admission` knows whether requests are accepted, `workers` which worker is ready and how busy, `table` chooses one, `proxy` passes
//! requests and answers on. The fleet starts the workers, scaled by the requests instead of by jobs.

mod admission;
mod body;
mod counts;
mod exchange;
mod gate;
mod headers;
pub(crate) mod limits;
mod measure;
mod probe;
mod proxy;
mod refusal;
mod settings;
mod table;
mod tunnel;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use runpod_http_server::{HttpServer, ServerCounts, ServerLimits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use admission::Admission;
pub(crate) use counts::{RequestFigures, RequestTotals};
pub(crate) use probe::PROBE_PATH;
use proxy::Proxy;
pub(crate) use settings::BalancerConfig;
pub(crate) use workers::{Balancer, Registration};

use crate::api::Keys;
use crate::store::Store;

/// The sockets of all load-balancing endpoints, each with its workers behind it.
pub(crate) struct Fronts {
    limits: ServerLimits,
    keys: Keys,
    fronts: BTreeMap<String, Front>,
}

struct Front {
    listener: TcpListener,
    address: SocketAddr,
    server: HttpServer,
    balancer: Arc<Balancer>,
    max_wait: Duration,
}

impl Fronts {
    /// None yet. Requests need a client key of `keys`.
    pub(crate) fn new(limits: ServerLimits, keys: Keys) -> Self {
        Self { limits, keys, fronts: BTreeMap::new() }
    }

    /// Opens the socket of an endpoint.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub(crate) async fn bind(&mut self, endpoint: &str, config: &BalancerConfig) -> std::io::Result<()> {
        let listener = TcpListener::bind(config.bind).await?;
        let address = listener.local_addr()?;
        let (server, balancer) = (HttpServer::new("load balancer", self.limits), Balancer::new(config.concurrency));
        let front = Front { listener, address, server, balancer, max_wait: config.max_wait };
        self.fronts.insert(endpoint.to_owned(), front);
        Ok(())
    }

    /// The workers of an endpoint; `None` when it has a queue.
    pub(crate) fn balancer(&self, endpoint: &str) -> Option<Arc<Balancer>> {
        self.fronts.get(endpoint).map(|front| Arc::clone(&front.balancer))
    }

    /// The workers of all endpoints.
    pub(crate) fn balancers(&self) -> BTreeMap<String, Arc<Balancer>> {
        self.fronts.iter().map(|(endpoint, front)| (endpoint.clone(), Arc::clone(&front.balancer))).collect()
    }

    /// The counters of the connections.
    pub(crate) fn connections(&self) -> Vec<Arc<ServerCounts>> {
        self.fronts.values().map(|front| front.server.counts()).collect()
    }

    /// Each endpoint with the address of its socket.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.fronts.iter().map(|(endpoint, front)| (&**endpoint, front.address))
    }

    /// Answers requests in the background until `shutdown`. From `drain` on, new ones are refused. Whether an endpoint is paused is
    /// known to `store`.
    pub(crate) fn start(self, store: &Arc<dyn Store>, drain: &CancellationToken, shutdown: &CancellationToken) {
        for (endpoint, Front { listener, address, server, balancer, max_wait }) in self.fronts {
            let keys = Keys { local: address.ip().is_loopback() && self.keys.local, ..self.keys.clone() };
            let admission = Admission::start(store, &endpoint, drain, shutdown);
            let proxy = Proxy { balancer: Arc::clone(&balancer), admission, max_wait };
            let router = gate::guarded(Router::new().fallback(any(proxy::pass_on)).with_state(proxy), &keys);
            let router = router.layer(from_fn_with_state(balancer, measure::count));
            let shutdown = shutdown.clone();
            tokio::spawn(async move { server.serve(listener, router, &shutdown).await });
        }
    }
}

#[cfg(test)]
mod tests;
