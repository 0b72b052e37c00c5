//! From the command line to a server that is ready to run.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use runpod_alerts::{Format, Webhook, WebhookUrl, load_rules};
use runpod_http_server::{ServerLimits, connections_within, raise_descriptor_limit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::args::{
    AlertArgs, AlertFormat, ConnectionArgs, FaultArgs, KeyArgs, ListenArgs, RateLimitChoice, WebhookArgs,
    WebhookSchedule, WorkerArgs,
};
use super::config::{Config, ConfigError, EndpointConfig};
use super::effective::Effective;
use super::exit::Exit;
use super::pairs::{Contradictions, Settings};
use crate::alerts::Alerts;
use crate::api::{Catalog, FairBy, KeyFileError, KeySet, Keys, Options, Origins, RateLimits};
use crate::balancer::Fronts;
use crate::faults::{Faults, Script, ScriptError};
use crate::local::Local;
use crate::overflow::{Overflow, OverflowConfig, OverflowCounts, OverflowError, OverflowSettings};
use crate::secret::Secret;
use crate::server::{Server, ServerConfig, ServerError};
use crate::store::{
    self, DatabaseError, DatabaseUrl, Finding, Limits, MemoryStore, Overrides, Policy, PostgresStore, Setup,
    SqliteStore, Status, Store, Verdict, WebhookDue, WebhookQueue, check_database,
};
use crate::webhooks::{BadSecret, Guard, Schedule, Signer, TargetCheck, Webhooks, WebhooksError};

/// Bytes of payloads that a data file may hold.
const MAX_FILE_BYTES: usize = 64 << 30;

/// How much longer the record of a job is kept for its webhook than the deliveries last.
const REPORT_SLACK: Duration = Duration::from_secs(600);

/// The addresses of this machine. IPv6 has one.
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Contradictions(#[from] Contradictions),
    #[error("--faults: {0}")]
    Faults(#[from] ScriptError),
    #[error("--webhook-secret: {0}")]
    Secret(#[from] BadSecret),
    #[error("--webhook-secret is empty: give it a value or leave it out")]
    EmptySecret,
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
    #[error(transparent)]
    Data(#[from] store::OpenError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("--alert-rules: {0}")]
    AlertRules(#[from] runpod_alerts::RulesError),
    #[error("--alert-webhook: {0}")]
    AlertUrl(#[from] runpod_alerts::BadUrl),
    #[error(transparent)]
    AlertWebhook(#[from] runpod_alerts::SendError),
    #[error("endpoint {endpoint:?}: cannot listen on {bind}: {error}; choose another `load_balancer.bind`")]
    Balancer { endpoint: String, bind: SocketAddr, error: std::io::Error },
    #[error("endpoint {endpoint:?}: {error}")]
    Overflow { endpoint: String, error: OverflowError },
    #[error(transparent)]
    OverflowClient(#[from] OverflowError),
}

impl OpenError {
    /// The exit status.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Server(ServerError::Unprotected(_) | ServerError::EmptyKey) => Exit::Usage,
            Self::Database(DatabaseError::Url(_) | DatabaseError::PasswordFile(..)) => Exit::Usage,
            Self::Database(_)
            | Self::Server(_)
            | Self::Webhooks(_)
            | Self::Data(_)
            | Self::AlertWebhook(_)
            | Self::OverflowClient(_)
            | Self::Balancer { .. } => Exit::Failure,
            _ => Exit::Usage,
        }
    }
}

/// A bound server and everything around it.
pub(crate) struct Opened {
    pub(crate) server: Server,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: Config,
    /// The key that local workers send.
    pub(crate) worker_key: Option<Secret>,
    pub(crate) faults: Option<Arc<Faults>>,
    pub(crate) webhooks: Deliveries,
    pub(crate) alerts: Alerts,
    pub(crate) overflow: Overflow,
    pub(crate) fronts: Fronts,
    /// The workers that this program starts.
    pub(crate) local: Local,
}

/// Webhook deliveries that have not been started.
pub(crate) struct Deliveries {
    webhooks: Webhooks,
    due: mpsc::UnboundedReceiver<WebhookDue>,
}

impl Deliveries {
    /// Delivers in the background until `shutdown`.
    pub(crate) fn start(self, shutdown: CancellationToken) {
        tokio::spawn(self.webhooks.run(self.due, shutdown));
    }
}

/// What follows when a handler program is built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Its workers start anew.
    Restart,
    /// Nothing, until a worker is started for another reason.
    Ignore,
}

/// What differs between `serve` and `dev`.
pub(crate) struct Extra<'a> {
    /// The endpoint that the console shows first.
    pub(crate) shown: &'a str,
    /// The endpoint of the handler on the command line. It exists even if it is not configured.
    pub(crate) endpoint: Option<&'a str>,
    /// Other endpoints are not created on first use: no worker would ever serve them.
    pub(crate) only_known: bool,
    /// Clients may send faults for their own jobs.
    pub(crate) fault_header: bool,
    /// Webhooks may reach this machine: whoever develops a handler here has the receiver here too.
    pub(crate) loopback_webhooks: bool,
    /// Results that the platform would refuse are logged: whoever develops a handler here will run it there.
    pub(crate) warn_of_large_results: bool,
    /// The flags of local workers.
    pub(crate) workers: &'a WorkerArgs,
    /// The handler on the command line.
    pub(crate) handler: &'a [OsString],
    /// When a handler program is built anew.
    pub(crate) rebuild: Rebuild,
}

/// Settings that can work together: everything that can be checked before anything is opened.
pub(crate) struct Checked {
    server: ServerConfig,
    faults: Option<Arc<Faults>>,
    alerts: Alerts,
    guard: Guard,
    signer: Option<Signer>,
    overflow: BTreeMap<String, OverflowSettings>,
    database: Option<DatabaseUrl>,
    pub(crate) config: Config,
}

/// Reads all files and checks all settings. Opens nothing and starts nothing.
pub(crate) fn check(listen: &ListenArgs, extra: &Extra<'_>, effective: &Effective) -> Result<Checked, OpenError> {
    let config = Config::load(listen.config.as_deref())?;
    let Extra { workers, handler, shown, .. } = *extra;
    let settings = Settings { listen, workers, endpoint_id: shown, handler, config: &config, effective };
    settings.check()?;
    let keys = keys(&listen.keys)?;
    let faults = faults(&listen.faults, extra.fault_header)?.map(Arc::new);
    let guard = guard(&listen.webhooks, extra.loopback_webhooks);
    let options = Options {
        catalog: catalog(&config, extra, listen.jobs.fair_by.clone()),
        rate_limits: (listen.jobs.rate_limits == RateLimitChoice::Platform).then(RateLimits::default),
        faults: faults.clone(),
        webhooks: TargetCheck::new(guard.clone()),
        origins: Origins::new(listen.keys.cors_allow_origin.iter().cloned()),
        warn_of_large_results: extra.warn_of_large_results,
    };
    let secret = listen.webhooks.webhook_secret.as_ref();
    if secret.is_some_and(|secret| secret.expose().is_empty()) {
        return Err(OpenError::EmptySecret);
    }
    let server = ServerConfig {
        bind: listen.bind,
        keys,
        insecure: listen.keys.insecure_no_auth,
        hold: listen.jobs.hold,
        max_result_bytes: usize::from(listen.jobs.max_result_mib) << 20,
        limits: server_limits(&listen.connections),
        request_memory: mebibytes(listen.connections.max_request_memory_mib),
        options: Arc::new(options),
    };
    server.check()?;
    let signer = secret.map(Signer::new).transpose()?;
    let overflow = overflow(&config)?;
    let database = database(listen)?;
    Ok(Checked { server, faults, alerts: alerts(&listen.alerts)?, guard, signer, overflow, database, config })
}

/// Opens the socket and the store.
pub(crate) async fn open(checked: Checked, listen: &ListenArgs, extra: &Extra<'_>) -> Result<Opened, OpenError> {
    let Checked { server, faults, alerts, guard, signer, overflow, database, config } = checked;
    if faults.is_some() && listen.faults.faults.is_some() {
        tracing::warn!("Scripted faults are on: this server misbehaves on purpose.");
    }
    let keys = &listen.keys;
    let has_worker_key = keys.worker_key.is_some() || keys.worker_key_file.is_some();
    if !has_worker_key && !server.keys.worker.is_empty() {
        tracing::info!("The local workers use a generated key. Workers elsewhere can join with --worker-key.");
    }
    if has_worker_key && server.keys.client.is_empty() {
        tracing::warn!("Only the worker API has a key. Everyone who reaches the client API can use it: set --api-key.");
    }
    let connections = server.limits.max_connections;
    if u32::try_from(connections).is_ok_and(|connections| connections < listen.connections.max_connections) {
        tracing::warn!(
            connections,
            wanted = listen.connections.max_connections,
            "The limit of open files allows fewer connections than --max-connections. Raise it with ulimit -n."
        );
    }
    let worker_key = server.keys.worker.first().cloned();
    let endpoints = server.options.catalog.policies.keys().cloned().collect();
    let local = Local::of(extra.shown);
    let (queue, due) = WebhookQueue::channel();
    let outcomes = queue.outcomes();
    let fronts = fronts(&config, &server).await?;
    let (max_result_bytes, counts) = (server.max_result_bytes, OverflowCounts::default());
    let server = Server::bind(server).await?.with_local(local.clone()).with_webhooks(outcomes.clone());
    let server = server.with_overflow(counts.clone()).with_fronts(&fronts);
    let timeout_status = if listen.jobs.report_timed_out { Status::TimedOut } else { Status::Failed };
    let schedule = match listen.webhooks.webhook_retry_for {
        WebhookSchedule::Platform => Schedule::platform(),
        WebhookSchedule::For(time) => Schedule::lasting(time),
    };
    let limits = Limits {
        report_hold: schedule.span() + REPORT_SLACK,
        max_batches: usize::try_from(listen.jobs.max_batches).unwrap_or(usize::MAX),
        max_batch_requests: usize::try_from(listen.jobs.max_batch_requests).unwrap_or(usize::MAX),
        batch_retention: listen.jobs.batch_retention,
        report_cancelled: listen.webhooks.webhook_cancelled,
        lease: listen.jobs.lease,
        max_retries: listen.jobs.retries,
        max_queued: listen.jobs.max_queued.map(count),
        retention: listen.jobs.retention,
        timeout_status,
        max_read_bytes: mebibytes(listen.connections.max_reply_memory_mib),
        ..Limits::default()
    };
    // The disk has room for more than memory.
    let is_stored = listen.data.is_some() || database.is_some();
    let limits = if is_stored { Limits { max_bytes: MAX_FILE_BYTES, ..limits } } else { limits };
    let setup = Setup { limits, endpoints, overrides: overrides(&config), webhooks: queue };
    let store: Arc<dyn Store> = match (database, &listen.data) {
        (Some(database), _) => {
            let url = database.clone();
            let store = PostgresStore::open_within(database, setup, listen.database_wait).await?;
            tracing::info!(database = %url, "The queue is in a database.");
            tokio::spawn(warn_of_database(url));
            Arc::new(store)
        }
        (None, Some(path)) => Arc::new(SqliteStore::open(path, setup)?),
        (None, None) => Arc::new(MemoryStore::new(setup)),
    };
    let webhooks = Webhooks::new(Arc::clone(&store), guard, signer)?.counting(outcomes).with_schedule(schedule);
    let overflow = Overflow::new(&store, overflow, max_result_bytes, is_stored, &counts)?;
    let webhooks = Deliveries { webhooks, due };
    Ok(Opened { server, store, config, worker_key, faults, webhooks, alerts, overflow, fronts, local })
}

/// What `database check` would have mended.
async fn warn_of_database(url: DatabaseUrl) {
    for Finding { name, value, verdict } in check_database(&url).await.unwrap_or_default() {
        if let Verdict::Fix(fix) = verdict {
            tracing::warn!(name, value, fix, "A setting of the database endangers jobs, or slows them down.");
        }
    }
}

/// Which addresses webhooks may reach.
fn guard(args: &WebhookArgs, loopback: bool) -> Guard {
    let own = [IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)), LOOPBACK.into()];
    let allowed: Vec<_> = args.webhook_allow.iter().copied().chain(own.into_iter().filter(|_| loopback)).collect();
    Guard::new(&allowed)
}

fn database(listen: &ListenArgs) -> Result<Option<DatabaseUrl>, DatabaseError> {
    let Some(url) = &listen.database else { return Ok(None) };
    url.expose().parse::<DatabaseUrl>()?.with_password(listen.database_password_file.as_deref()).map(Some)
}

/// The limits of the server's connections. The soft limit of open files is raised for them first.
fn server_limits(args: &ConnectionArgs) -> ServerLimits {
    let wanted = usize::try_from(args.max_connections).unwrap_or(usize::MAX);
    let max_connections = connections_within(wanted, raise_descriptor_limit());
    ServerLimits { max_connections, ..ServerLimits::default() }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn mebibytes(mebibytes: u32) -> usize {
    usize::try_from(mebibytes).unwrap_or(usize::MAX).saturating_mul(1 << 20)
}

fn keys(args: &KeyArgs) -> Result<Keys, KeyFileError> {
    let client = KeySet::load(args.api_key.as_ref(), args.api_key_file.as_deref())?;
    let mut worker = KeySet::load(args.worker_key.as_ref(), args.worker_key_file.as_deref())?;
    if worker.is_empty() && !client.is_empty() && !args.insecure_no_auth {
        // Only local workers need to know it: without any, this pair of settings is refused.
        worker = KeySet::new([Secret::from(&*Uuid::new_v4().to_string())]);
    }
    Ok(Keys { client, worker, local: false })
}

fn faults(args: &FaultArgs, fault_header: bool) -> Result<Option<Faults>, ScriptError> {
    let script = args.faults.as_deref().map(Script::load).transpose()?;
    let wanted = script.is_some() || fault_header;
    Ok(wanted.then(|| Faults::new(script.unwrap_or_default(), fault_header)))
}

fn alerts(args: &AlertArgs) -> Result<Alerts, OpenError> {
    let rules = load_rules(args.alert_rules.as_deref())?;
    let format = match args.alert_format {
        AlertFormat::Plain => Format::Plain,
        AlertFormat::Slack => Format::Slack,
        AlertFormat::Discord => Format::Discord,
    };
    let url = args.alert_webhook.as_ref().map(|url| WebhookUrl::parse(url.expose())).transpose()?;
    let webhook = url.map(|url| Webhook::new(url, format)).transpose()?;
    Ok(Alerts::new(rules, webhook))
}

/// Opens the sockets of the load-balancing endpoints.
async fn fronts(config: &Config, server: &ServerConfig) -> Result<Fronts, OpenError> {
    let keys = Keys { local: !server.insecure, ..server.keys.clone() };
    let mut fronts = Fronts::new(server.limits, keys);
    for endpoint in &config.endpoint {
        let Some(balancer) = &endpoint.load_balancer else { continue };
        let bound = fronts.bind(&endpoint.id, balancer).await;
        bound.map_err(|error| OpenError::Balancer { endpoint: endpoint.id.clone(), bind: balancer.bind, error })?;
    }
    Ok(fronts)
}

fn overflow(config: &Config) -> Result<BTreeMap<String, OverflowSettings>, OpenError> {
    let configured = config.endpoint.iter().filter_map(|endpoint| Some((&endpoint.id, endpoint.overflow.as_ref()?)));
    let open = |(endpoint, config): (&String, &OverflowConfig)| {
        let opened = config.open().map_err(|error| OpenError::Overflow { endpoint: endpoint.clone(), error })?;
        Ok((endpoint.clone(), opened))
    };
    configured.map(open).collect()
}

fn catalog(config: &Config, extra: &Extra<'_>, fair_by: Option<FairBy>) -> Catalog {
    let own = extra.endpoint.map(|id| (id.to_owned(), Policy::default()));
    let configured = config.endpoint.iter().map(|endpoint| (endpoint.id.clone(), endpoint.policy()));
    let policies = own.into_iter().chain(configured).collect();
    let own_fair_by =
        config.endpoint.iter().filter_map(|endpoint| Some((endpoint.id.clone(), endpoint.fair_by.clone()?)));
    Catalog { policies, fair_by, own_fair_by: own_fair_by.collect(), closed: config.only_these || extra.only_known }
}

fn overrides(config: &Config) -> HashMap<String, Overrides> {
    let own = |endpoint: &EndpointConfig| Overrides {
        lease: endpoint.lease,
        max_retries: endpoint.retries,
        max_queued: endpoint.max_queued.map(count),
        retention: endpoint.retention,
    };
    config.endpoint.iter().map(|endpoint| (endpoint.id.clone(), own(endpoint))).collect()
}
