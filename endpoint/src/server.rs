//! The HTTP server: opens the socket, serves all routes, and shuts down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runpod_http_server::{Budget, HttpServer, ServerCounts, ServerLimits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, App, AppState, Keys, Options};
use crate::balancer::{Balancer, Fronts};
use crate::console::{self, Console};
use crate::local::Local;
use crate::monitoring::Monitoring;
use crate::overflow::OverflowCounts;
use crate::store::{Store, WebhookOutcomes};

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen. Port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Keys to enforce.
    pub keys: Keys,
    /// Without keys, listen beyond this machine and accept every host name.
    pub insecure: bool,
    /// How long worker polls are held open. Workers give up after 90 s.
    pub hold: Duration,
    /// Largest result or stream item, in bytes.
    pub max_result_bytes: usize,
    /// Limits of connections.
    pub limits: ServerLimits,
    /// Bytes of all request bodies that are being read.
    pub request_memory: usize,
    /// What the operator has switched on.
    pub options: Arc<Options>,
}

impl ServerConfig {
    /// Checks what can be checked without a socket.
    ///
    /// # Errors
    /// When a key is empty, or the address must not be used without keys.
    pub fn check(&self) -> Result<(), ServerError> {
        let Keys { client, worker, .. } = &self.keys;
        if client.iter().chain(worker.iter()).any(|key| key.expose().is_empty()) {
            return Err(ServerError::EmptyKey);
        }
        let protected = !client.is_empty() && !worker.is_empty();
        if !self.bind.ip().is_loopback() && !protected && !self.insecure {
            return Err(ServerError::Unprotected(self.bind));
        }
        Ok(())
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is reachable from the network, and not both keys are set.
    #[error(
        "refusing to listen on {0} without keys: set --api-key and --worker-key, bind to 127.0.0.1, or pass --insecure-no-auth"
    )]
    Unprotected(SocketAddr),
    /// A key is empty.
    #[error("an empty key protects nothing: give --api-key and --worker-key a value or leave them out")]
    EmptyKey,
    /// Another program uses the port.
    #[error("{0} is in use: stop the program that listens there or choose another port with --bind")]
    InUse(SocketAddr),
    /// The system refuses the address.
    #[error("cannot listen on {0}: {1}; choose another address with --bind")]
    Bind(SocketAddr, #[source] std::io::Error),
}

/// A bound server that does not answer requests yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
    local: Local,
    webhooks: WebhookOutcomes,
    overflow: OverflowCounts,
    balancers: BTreeMap<String, Arc<Balancer>>,
    /// The counters of other servers of this program.
    connections: Vec<Arc<ServerCounts>>,
}

impl Server {
    /// Checks the configuration and opens the socket.
    ///
    /// # Errors
    /// When the address cannot be used or must not be used without keys.
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        config.check()?;
        let listener = TcpListener::bind(config.bind).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => ServerError::InUse(config.bind),
            _ => ServerError::Bind(config.bind, error),
        })?;
        let address = listener.local_addr().map_err(|error| ServerError::Bind(config.bind, error))?;
        let (local, webhooks, overflow) = (Local::default(), WebhookOutcomes::default(), OverflowCounts::default());
        let (balancers, connections) = (BTreeMap::new(), Vec::new());
        Ok(Self { listener, address, config, local, webhooks, overflow, balancers, connections })
    }

    /// Sets the local workers that the console and `/graphql` show.
    #[must_use]
    pub fn with_local(self, local: Local) -> Self {
        Self { local, ..self }
    }

    /// Sets the webhook counters that `/metrics` shows.
    #[must_use]
    pub fn with_webhooks(self, webhooks: WebhookOutcomes) -> Self {
        Self { webhooks, ..self }
    }

    /// Sets the counters of the overflow that `/metrics` shows.
    #[must_use]
    pub fn with_overflow(self, overflow: OverflowCounts) -> Self {
        Self { overflow, ..self }
    }

    /// Sets the load-balancing endpoints whose requests and connections `/metrics` shows.
    #[must_use]
    pub(crate) fn with_fronts(self, fronts: &Fronts) -> Self {
        Self { balancers: fronts.balancers(), connections: fronts.connections(), ..self }
    }

    /// The endpoints that exist before their first job.
    fn known_endpoints(&self) -> Vec<String> {
        let configured = self.config.options.catalog.policies.keys().map(String::as_str);
        let known: BTreeSet<_> = configured.chain(self.local.endpoint()).map(str::to_owned).collect();
        known.into_iter().collect()
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://host:port`, usable from this machine.
    #[must_use]
    pub fn base_url(&self) -> String {
        let ip = self.address.ip();
        let ip = match ip {
            _ if !ip.is_unspecified() => ip,
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        format!("http://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// Answers requests until `shutdown` is cancelled, then closes within a few seconds. Once `drain` is cancelled, workers get no
    /// jobs.
    pub async fn run(self, store: Arc<dyn Store>, drain: CancellationToken, shutdown: CancellationToken) {
        let balanced = self.balancers.keys().cloned().collect();
        let console = Console::new(Arc::clone(&store), self.local.clone(), shutdown.clone()).with_balanced(balanced);
        tokio::spawn(console.samples.clone().collect(Arc::clone(&store), shutdown.clone()));
        let http = HttpServer::new("endpoint", self.config.limits);
        let monitoring =
            Monitoring::new(Arc::clone(&store), self.known_endpoints(), self.webhooks.clone(), drain.clone())
                .with_connections(std::iter::once(http.counts()).chain(self.connections))
                .with_balancers(self.balancers)
                .with_overflow(self.overflow.clone());
        let request_memory = Budget::new(self.config.request_memory);
        let app = App::from(AppState {
            store,
            hold: self.config.hold,
            max_result_bytes: self.config.max_result_bytes,
            request_memory: request_memory.clone(),
            drain,
            shutdown: shutdown.clone(),
            options: self.config.options,
        });
        let keys = Keys { local: self.address.ip().is_loopback() && !self.config.insecure, ..self.config.keys };
        let router = api::router(app, keys.clone()).merge(console::router(console, &keys)).merge(api::graphql::router(
            self.local,
            &keys,
            request_memory,
        ));
        let router = api::with_common_layer(monitoring.watch(router));
        http.serve(self.listener, router, &shutdown).await;
    }
}
