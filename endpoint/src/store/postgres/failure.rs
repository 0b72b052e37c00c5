//! Why a unit of work did not come about.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

/// Why a unit did not come about.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Another unit was in the way. Nothing was changed.
    Again,
    /// The database refuses it at the moment. Nothing was changed.
    Refused(Arc<str>),
    /// The database refuses what was sent, and would again. Nothing was changed.
    Unacceptable(Arc<str>),
    /// The connection is lost. Whether it was committed is unknown if it was sent.
    Away(Arc<str>),
}

/// What other transactions are the cause of.
pub(super) const IN_THE_WAY: [SqlState; 3] =
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];

/// Classes of errors that are those of the values sent: a data exception, a violated constraint, a limit of the server.
const UNACCEPTABLE: [&str; 3] = ["22", "23", "54"];

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else { return Self::Away(error.to_string().into()) };
        let code = refusal.code();
        let text = Arc::from(refusal.message());
        let again = [SqlState::UNIQUE_VIOLATION, SqlState::IN_FAILED_SQL_TRANSACTION];
        // The server ends, starts or has become a standby: another connection may lead to the one that writes.
        let away = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ];
        match () {
            () if IN_THE_WAY.contains(code) || again.contains(code) => Self::Again,
            () if away.contains(code) => Self::Away(text),
            () if UNACCEPTABLE.iter().any(|class| code.code().starts_with(class)) => Self::Unacceptable(text),
            () => Self::Refused(text),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Refused(format!("a record in the database cannot be read ({error}); is a newer version running?").into())
    }
}
