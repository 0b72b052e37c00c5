//! Why a database cannot be used, and what to do.

use std::path::PathBuf;

use super::room::PER_REPLICA;

/// The oldest server that is accepted.
pub(super) const MIN_VERSION: u32 = 14;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The URL is wrong.
    #[error(
        "--database: {0}; give postgres://USER@HOST:PORT/NAME, with commas between several hosts and ?sslmode=disable, prefer or require"
    )]
    Url(String),
    /// The file with the password cannot be read.
    #[error("--database-password-file {}: {}; make it readable, with the password on its first line", .0.display(), .1)]
    PasswordFile(PathBuf, std::io::Error),
    /// The file with authorities cannot be used.
    #[error("PGSSLROOTCERT={}: no certificates ({}); name a file with the server's authority in PEM format", .0.display(), .1)]
    RootCertificates(PathBuf, String),
    /// No server answers.
    #[error("--database: no PostgreSQL answers at {0} ({1}); start it, or correct host and port")]
    Unreachable(String, String),
    /// TLS could not be agreed upon.
    #[error(
        "--database: no TLS with {0} ({1}); name its authority with PGSSLROOTCERT=FILE, or use ?sslmode=disable on a trusted network"
    )]
    Tls(String, String),
    /// The server's certificate is for another name.
    #[error(
        "--database: no TLS with {0} ({1}); give the host a name that the certificate has, or use ?sslmode=disable on a trusted network"
    )]
    TlsName(String, String),
    /// Wrong name or password.
    #[error(
        "--database: the server refuses user {0:?}: {1}; correct the user, or the password (PGPASSWORD or --database-password-file)"
    )]
    Password(String, String),
    /// No such database.
    #[error(
        "--database: there is no database {0:?} on this server; as the server's superuser: createdb --owner {1} --encoding UTF8 --template template0 {0}"
    )]
    NoDatabase(String, String),
    /// A standby, or a server that is set to read only.
    #[error(
        "--database: {0} is read-only, as a standby is, or has default_transaction_read_only set; name the primary, or all hosts: postgres://a,b,c/NAME"
    )]
    ReadOnly(String),
    /// All of several servers are standbys: none has been promoted yet, or the primary is not named.
    #[error("--database: none of {0} takes writes; promote one, or name the primary too")]
    FailingOver(String),
    /// Too old a server.
    #[error("--database: the server is PostgreSQL {0}, and {MIN_VERSION} or newer is needed; upgrade it")]
    TooOld(String),
    /// Tables of a later version.
    #[error(
        "--database: its tables are of a newer runpod-endpoint (version {found}, this one knows {known}); upgrade runpod-endpoint, or use another database"
    )]
    Newer {
        /// Their version.
        found: i32,
        /// The newest version that this program knows.
        known: i32,
    },
    /// Something else's tables.
    #[error(
        "--database: the database has tables of another program ({0}); give runpod-endpoint a database of its own, as the server's superuser: createdb --owner USER NAME"
    )]
    Foreign(String),
    /// Notifications do not arrive.
    #[error(
        "--database: notifications do not arrive, so there is a pooler in transaction mode in between; connect to PostgreSQL directly, or set the pooler to session mode"
    )]
    Pooler,
    /// The user lacks a right.
    #[error("--database: user {user:?} lacks a right ({refusal}); {}", advice(user, refusal))]
    Rights {
        /// The user.
        user: String,
        /// What the server says.
        refusal: String,
    },
    /// An endpoint would go on meanwhile.
    #[error("--database: the endpoint on {0} uses it; stop every endpoint of this database first")]
    InUse(String),
    /// There are jobs already.
    #[error(
        "--database: there are {0} jobs in it already; import into an empty database, such as a new one, which the server's superuser makes: createdb --owner USER NAME"
    )]
    NotEmpty(u64),
    /// Nothing to read.
    #[error("--database: it has no tables of runpod-endpoint; correct the name of the database")]
    NoTables,
    /// Locked by another one that creates, updates or moves its content.
    #[error(
        "--database: another runpod-endpoint is about to move or migrate its content, or a transaction of another program holds locks; try again when it has ended"
    )]
    Busy,
    /// No connection is left for this user.
    #[error("--database: {0}; each endpoint opens up to {PER_REPLICA}: {1}")]
    Connections(String, String),
    /// It answers, and cannot be used: it is full, has no standby, or is on its way down.
    #[error("--database: it cannot be used at the moment: {0}; look into the log of the server")]
    NotNow(String),
    /// Anything else.
    #[error("--database: {0}; look into the log of the server")]
    Other(String),
}

impl DatabaseError {
    /// Whether it may pass without a change of the settings.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(..) | Self::FailingOver(_) | Self::Busy | Self::Connections(..) | Self::NotNow(_)
        )
    }
}

/// What gives the right that the server has found missing.
fn advice(user: &str, refusal: &str) -> String {
    match () {
        () if refusal.contains("schema") => {
            format!("run as a superuser in this database: {}", grant_schema(user, "public"))
        }
        () if refusal.contains("database") => {
            format!("run as a superuser: GRANT CONNECT ON DATABASE of this name TO {user:?}")
        }
        () if refusal.contains("owner") => "run `database migrate` as the owner of its tables".to_owned(),
        () => format!("run as the owner of its tables: {}", grant_tables(user, "public")),
    }
}

/// What allows a user to create the tables.
pub(super) fn grant_schema(user: &str, schema: &str) -> String {
    format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user:?}")
}

/// What allows a user to use tables of another one.
pub(super) fn grant_tables(user: &str, schema: &str) -> String {
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user:?}; \
         GRANT SELECT, USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {user:?}"
    )
}
