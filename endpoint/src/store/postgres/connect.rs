//! Connections: the URL and its password, TLS, the pool, and what a failed connection means.

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::database_error::DatabaseError;
use super::failure::IN_THE_WAY;
use super::room::{CONNECT_LIMIT, MAX_CONNECTIONS};
use crate::secret::without_mark;

/// What a replica calls itself at the server.
pub(super) const APPLICATION: &str = "runpod-endpoint";

/// How long data may be unacknowledged before a connection counts as lost.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// Between two questions whether the server is still there, on a connection that was idle for [`SILENCE_LIMIT`]. The one that listens
/// is idle always; left to the system, a server that is gone would be noticed after minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// Ends a transaction whose replica is gone without a goodbye: it holds locks. A row that was waited for must be read as it is now.
/// Rows are found one by one in an index, which then steps over dead ones; a bitmap of them would have each dead row read again by every
/// statement until it is vacuumed. Nothing here is worth compiling. Warnings are needed: see [`is_doubtful_commit`].
pub(super) const SESSION: &str = "SET client_min_messages = warning; SET idle_session_timeout = 0; \
    SET idle_in_transaction_session_timeout = '20s'; SET lock_timeout = '10s'; SET statement_timeout = 0; \
    SET default_transaction_isolation = 'read committed'; SET enable_bitmapscan = off; SET jit = off";

/// Where the database is, and how to log in. Shows neither the password nor the rest when printed.
#[derive(Clone)]
pub struct DatabaseUrl(Config);

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DatabaseUrl({})", self.hosts())
    }
}

impl fmt::Display for DatabaseUrl {
    /// For a log: without the password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {} as {}", self.database(), self.hosts(), self.user())
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseError;

    /// `postgres://user:password@host1:5432,host2/name?sslmode=require`
    fn from_str(text: &str) -> Result<Self, DatabaseError> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(DatabaseError::Url("this is not a URL of PostgreSQL".to_owned()));
        }
        // The parser takes what is behind the first one for the host, and messages name hosts.
        if text.split('?').next().unwrap_or_default().matches('@').count() > 1 {
            let advice = "a password has an @ in it: write %40, or use --database-password-file";
            return Err(DatabaseError::Url(advice.to_owned()));
        }
        // The parser's own text names the parameter, never a value.
        let parsed = Config::from_str(text).map_err(|error| DatabaseError::Url(reason(&error)))?;
        let mut config = parsed;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(DatabaseError::Url("it names no host".to_owned()));
        }
        // Nobody listens there, and a server's certificate is hardly for such a name.
        if config.get_ssl_mode() == SslMode::Prefer && config.get_hosts().iter().all(is_loopback) {
            config.ssl_mode(SslMode::Disable);
        }
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name(APPLICATION)
            .connect_timeout(CONNECT_LIMIT)
            .tcp_user_timeout(SILENCE_LIMIT)
            .keepalives_idle(SILENCE_LIMIT)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(3);
        Ok(Self(config))
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
        Host::Unix(_) => true,
    }
}

impl DatabaseUrl {
    /// Takes the password from a file, or from `PGPASSWORD`, unless the URL has one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn with_password(mut self, file: Option<&Path>) -> Result<Self, DatabaseError> {
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|error| DatabaseError::PasswordFile(path.to_owned(), error))?;
            self.0.password(without_mark(&text).lines().next().unwrap_or_default());
        } else if self.0.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            self.0.password(password);
        }
        Ok(self)
    }

    pub(super) fn config(&self) -> &Config {
        &self.0
    }

    /// The hosts, for messages.
    pub(super) fn hosts(&self) -> String {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let ports = self.0.get_ports();
        let port = |at: usize| ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
        let hosts: Vec<_> =
            self.0.get_hosts().iter().enumerate().map(|(at, name)| format!("{}:{}", host(name), port(at))).collect();
        hosts.join(",")
    }

    fn user(&self) -> String {
        self.0.get_user().unwrap_or("(none in the URL)").to_owned()
    }

    fn database(&self) -> String {
        self.0.get_dbname().or_else(|| self.0.get_user()).unwrap_or_default().to_owned()
    }

    fn read_only(&self) -> DatabaseError {
        let is_one_of_several = self.0.get_hosts().len() > 1;
        if is_one_of_several { DatabaseError::FailingOver(self.hosts()) } else { DatabaseError::ReadOnly(self.hosts()) }
    }

    /// What went wrong, and what to do.
    pub(super) fn explain(&self, error: &tokio_postgres::Error) -> DatabaseError {
        let Some(refusal) = error.as_db_error() else {
            let text = reason(error);
            return match () {
                () if is_read_only(error) => self.read_only(),
                () if text.contains("not valid for name") => DatabaseError::TlsName(self.hosts(), text),
                () if text.contains("TLS") || text.contains("certificate") => DatabaseError::Tls(self.hosts(), text),
                () if text.contains("password") => DatabaseError::Password(self.user(), text),
                () if text.contains("number of rows") => DatabaseError::Other(text),
                () => DatabaseError::Unreachable(self.hosts(), text),
            };
        };
        let (code, text) = (refusal.code(), refusal.message().to_owned());
        let is = |states: &[SqlState]| states.contains(code);
        match () {
            () if is(&[SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION]) => {
                DatabaseError::Password(self.user(), text)
            }
            () if is(&[SqlState::INVALID_CATALOG_NAME]) => DatabaseError::NoDatabase(self.database(), self.user()),
            () if is(&[SqlState::READ_ONLY_SQL_TRANSACTION]) => self.read_only(),
            // Without a right on any schema, the server says that none is selected.
            () if is(&[SqlState::INSUFFICIENT_PRIVILEGE, SqlState::INVALID_SCHEMA_NAME]) => {
                DatabaseError::Rights { user: self.user(), refusal: text }
            }
            () if is(&[SqlState::CANNOT_CONNECT_NOW]) => DatabaseError::Unreachable(self.hosts(), text),
            () if is(&IN_THE_WAY) => DatabaseError::Busy,
            () if is(&[SqlState::TOO_MANY_CONNECTIONS]) => {
                let fix = Bound::of(&text).advice(&self.user(), &self.database());
                DatabaseError::Connections(text, fix)
            }
            () if is(&FOR_NOW) => DatabaseError::NotNow(text),
            () if is(&[SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT]) => DatabaseError::Foreign(text),
            // A statement that was prepared in another session: the pooler changes sessions in between.
            () if is(&[SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT]) => DatabaseError::Pooler,
            () => DatabaseError::Other(text),
        }
    }
}

/// What a server says that stops, or has no room left.
const FOR_NOW: [SqlState; 4] =
    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::DISK_FULL, SqlState::OUT_OF_MEMORY];

/// What bounds the connections of a replica.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    Server,
    Role,
    Database,
}

impl Bound {
    /// The one that a refusal names.
    fn of(refusal: &str) -> Self {
        match () {
            // Those of the server are reserved for roles.
            () if refusal.contains("reserved") => Self::Server,
            () if refusal.contains("role") => Self::Role,
            () if refusal.contains("database") => Self::Database,
            () => Self::Server,
        }
    }

    /// What raises it.
    pub(super) fn advice(self, user: &str, database: &str) -> String {
        match self {
            Self::Server => "raise max_connections, and restart the server".to_owned(),
            Self::Role => format!("ALTER ROLE {user:?} CONNECTION LIMIT -1"),
            Self::Database => format!("ALTER DATABASE {database:?} CONNECTION LIMIT -1"),
        }
    }
}

/// The text of an error with that of its cause.
pub(super) fn reason(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// TLS that trusts what this machine trusts, and the authorities in the file that `PGSSLROOTCERT` names.
pub(super) fn tls() -> Result<MakeRustlsConnect, DatabaseError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = std::env::var_os("PGSSLROOTCERT").map(PathBuf::from) {
        let found = rustls_native_certs::load_certs_from_paths(Some(&file), None);
        if found.certs.is_empty() {
            let reason = found.errors.first().map_or_else(|| "there is none in it".to_owned(), ToString::to_string);
            return Err(DatabaseError::RootCertificates(file, reason));
        }
        roots.add_parsable_certificates(found.certs);
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| DatabaseError::Other(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// What a connection reads and writes.
type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Connects to the host that takes writes. All hosts are asked at once: one that is silent must not hold up the others.
pub(super) async fn open(
    config: &Config,
    tls: &MakeRustlsConnect,
) -> Result<(Client, Connection<Socket, TlsStream>), tokio_postgres::Error> {
    let single = single_hosts(config);
    let mut asked: FuturesUnordered<_> = single.iter().map(|one| one.connect(tls.clone())).collect();
    let mut failure: Option<tokio_postgres::Error> = None;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                if failure.as_ref().is_none_or(|known| weight(known) < weight(&error)) {
                    failure = Some(error);
                }
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => config.connect(tls.clone()).await,
    }
}

/// How much a failure says: what a server answers, then that it is a standby, then that there is none.
fn weight(error: &tokio_postgres::Error) -> u8 {
    match () {
        () if error.as_db_error().is_some_and(|refusal| *refusal.code() != SqlState::CANNOT_CONNECT_NOW) => 2,
        () if is_read_only(error) => 1,
        () => 0,
    }
}

fn is_read_only(error: &tokio_postgres::Error) -> bool {
    reason(error).contains("does not allow writes")
}

/// The same settings, once for each host.
fn single_hosts(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let one = |at: usize| {
        let mut one = Config::new();
        match hosts.get(at) {
            Some(Host::Tcp(name)) => drop(one.host(name)),
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        addresses.get(at).map(|address| one.hostaddr(*address));
        ports.get(at).or_else(|| ports.first()).map(|port| one.port(*port));
        config.get_user().map(|user| one.user(user));
        config.get_password().map(|password| one.password(password));
        config.get_dbname().map(|name| one.dbname(name));
        config.get_options().map(|options| one.options(options));
        config.get_application_name().map(|name| one.application_name(name));
        config.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
        config.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
        config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
        config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
        one.ssl_mode(config.get_ssl_mode())
            .ssl_negotiation(config.get_ssl_negotiation())
            .keepalives(config.get_keepalives())
            .keepalives_idle(config.get_keepalives_idle())
            .target_session_attrs(config.get_target_session_attrs())
            .channel_binding(config.get_channel_binding());
        one
    };
    (0..hosts.len().max(addresses.len())).map(one).collect()
}

/// The pool of one replica. Opens nothing yet.
pub(super) fn pool(url: &DatabaseUrl, tls: MakeRustlsConnect) -> Result<Pool, DatabaseError> {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_connect(url.config().clone(), Careful { tls }, config);
    let timeouts =
        Timeouts { wait: Some(CONNECT_LIMIT), create: Some(CONNECT_LIMIT * 2), recycle: Some(CONNECT_LIMIT) };
    Pool::builder(manager)
        .max_size(MAX_CONNECTIONS)
        .timeouts(timeouts)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| DatabaseError::Other(error.to_string()))
}

/// The first connection, with what is wrong if there is none.
pub(super) async fn first(pool: &Pool, url: &DatabaseUrl) -> Result<deadpool_postgres::Client, DatabaseError> {
    pool.get().await.map_err(|error| match error {
        deadpool_postgres::PoolError::Backend(error) => url.explain(&error),
        error => DatabaseError::Unreachable(url.hosts(), error.to_string()),
    })
}

/// Opens connections that end when the server says that a commit may not have reached the standbys: it reports success all the same,
/// so the outcome must count as unknown.
struct Careful {
    tls: MakeRustlsConnect,
}

impl Connect for Careful {
    fn connect(&self, config: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let (tls, config) = (self.tls.clone(), config.clone());
        Box::pin(async move {
            let (client, mut connection) = open(&config, &tls).await?;
            let driver = tokio::spawn(async move {
                while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                    match message {
                        Ok(AsyncMessage::Notice(notice)) if is_doubtful_commit(&notice) => {
                            tracing::warn!(
                                "A commit may not have reached the standbys. It is looked up before it counts."
                            );
                            return;
                        }
                        Ok(_) => {}
                        Err(error) => {
                            tracing::debug!(error = reason(&error), "A connection to the database has ended.");
                            return;
                        }
                    }
                }
            });
            client.batch_execute(SESSION).await?;
            Ok((client, driver))
        })
    }
}

/// A server that stops waiting for its standbys says so in a warning, in whichever language; only the place in its source is the same.
fn is_doubtful_commit(notice: &tokio_postgres::error::DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_password_nor_the_name_is_printed() {
        let url: DatabaseUrl = "postgres://someone:hunter2@db-1:6432,db-2:6433/jobs".parse().unwrap();
        let shown = format!("{url:?}");
        assert_eq!(shown, "DatabaseUrl(db-1:6432,db-2:6433)");
        let refused = "postgres://someone:hunter2@db/jobs?colour=hunter2".parse::<DatabaseUrl>().unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }

    #[test]
    fn each_host_is_asked_with_all_settings_of_the_url() {
        let rest =
            "/jobs?sslmode=require&channel_binding=require&options=-cgeqo%3Doff&connect_timeout=7&keepalives_idle=9";
        let all: DatabaseUrl = format!("postgres://someone:hunter2@db-1:1,db-2:2{rest}").parse().unwrap();
        let single = single_hosts(all.config());
        assert_eq!(single.len(), 2);
        for (one, host) in single.iter().zip(["db-1:1", "db-2:2"]) {
            let alone: DatabaseUrl = format!("postgres://someone:hunter2@{host}{rest}").parse().unwrap();
            assert_eq!(one, alone.config());
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_an_example() {
        for text in ["", "jobs.db", "mysql://a/b", "postgres:///jobs", "postgres://db:port/jobs"] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(error.contains("postgres://USER@HOST:PORT/NAME") && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn the_password_file_has_the_last_word() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from the file\n").unwrap();
        let url: DatabaseUrl = "postgres://a:b@db/jobs".parse().unwrap();
        let url = url.with_password(Some(file.path())).unwrap();
        assert_eq!(url.config().get_password(), Some(&b"from the file"[..]));
        let missing = url.with_password(Some(Path::new("/no/such/file"))).unwrap_err().to_string();
        assert!(missing.contains("/no/such/file"), "{missing}");
    }
}
