//! Load balancing: an endpoint without a queue, whose workers answer HTTP themselves. As RunPod's load-balancing endpoints.
//!
//! `workers` knows which worker is ready and how busy, `table` chooses one, `proxy` passes requests and answers on. The fleet
//! starts the workers, scaled by the requests instead of by jobs.

mod exchange;
mod gate;
pub(crate) mod limits;
mod proxy;
mod settings;
mod table;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use runpod_http_server::{HttpServer, ServerLimits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use proxy::Proxy;
pub(crate) use settings::BalancerConfig;
pub(crate) use workers::{Balancer, PROBE_PATH};

use crate::api::Keys;

/// The sockets of all load-balancing endpoints, each with its workers behind it.
pub(crate) struct Fronts {
    limits: ServerLimits,
    keys: Keys,
    fronts: BTreeMap<String, Front>,
}

struct Front {
    listener: TcpListener,
    address: SocketAddr,
    proxy: Proxy,
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
        let proxy = Proxy { balancer: Balancer::new(config.concurrency), max_wait: config.max_wait };
        self.fronts.insert(endpoint.to_owned(), Front { listener, address, proxy });
        Ok(())
    }

    /// The workers of an endpoint; `None` when it has a queue.
    pub(crate) fn balancer(&self, endpoint: &str) -> Option<Arc<Balancer>> {
        self.fronts.get(endpoint).map(|front| Arc::clone(&front.proxy.balancer))
    }

    /// Each endpoint with the address of its socket.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.fronts.iter().map(|(endpoint, front)| (&**endpoint, front.address))
    }

    /// Answers requests in the background until `shutdown`.
    pub(crate) fn start(self, shutdown: &CancellationToken) {
        for Front { listener, address, proxy } in self.fronts.into_values() {
            let keys = Keys { local: address.ip().is_loopback() && self.keys.local, ..self.keys.clone() };
            let router = gate::guarded(Router::new().fallback(any(proxy::pass_on)).with_state(proxy), &keys);
            let (server, shutdown) = (HttpServer::new("load balancer", self.limits), shutdown.clone());
            tokio::spawn(async move { server.serve(listener, router, &shutdown).await });
        }
    }
}

#[cfg(test)]
mod tests;
