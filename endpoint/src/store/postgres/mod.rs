//! The store that several replicas share: the same state machine, over rows of a PostgreSQL database.
//!
//! Nothing is kept in memory but who waits. For each batch of operations the rows that they need are locked and put into an empty
//! [`Queue`](super::queue::Queue), which decides; what changed is written in the same transaction, and hints wake whoever waits here or
//! at another replica.

mod batch_rows;
mod batches;
mod check;
mod connect;
mod endpoints;
mod failure;
mod floor;
mod hints;
mod local;
mod lock;
mod notify;
mod operations;
mod poll;
mod read;
mod rows;
mod schema;
mod shared;
mod store;
mod texts;
mod transfer;
mod unit;
mod upkeep;
mod work;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use check::{Finding, Verdict, check_database, migrate_database};
pub use connect::{DatabaseError, DatabaseUrl};
pub(crate) use transfer::{DatabaseSource, DatabaseTarget};

use super::setup::Setup;
use hints::Notifier;
use shared::Shared;

/// The store in a database.
pub struct PostgresStore {
    shared: Arc<Shared>,
    /// Ends with the store.
    _tasks: JoinSet<()>,
}

impl PostgresStore {
    /// Connects, brings the tables up to date and takes part from then on. Must be used inside a tokio runtime.
    ///
    /// # Errors
    /// When the database cannot be used; the text says what to do.
    pub async fn open(url: DatabaseUrl, setup: impl Into<Setup>) -> Result<Self, DatabaseError> {
        let tls = connect::tls()?;
        let pool = connect::pool(&url, tls.clone())?;
        let client = connect::first(&pool, &url).await?;
        // Before anything is created: through a pooler of the wrong kind it would be by several sessions.
        notify::probe(&url, &tls, &client).await?;
        schema::migrate(&client, &url).await?;
        drop(client);
        let (notifier, hints) = Notifier::new();
        let shared = Arc::new(Shared {
            url,
            pool,
            replica: uuid::Uuid::new_v4().to_string(),
            setup: setup.into(),
            locals: Mutex::new(HashMap::new()),
            notifier,
            figures: Mutex::default(),
            away: watch::Sender::new(None),
        });
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let failed = |error: super::StoreError| DatabaseError::Other(error.to_string());
        upkeep::once(&shared, &host, 0).await.map_err(failed)?;
        for endpoint in &shared.setup.endpoints {
            shared.endpoint(endpoint).await.map_err(failed)?;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(notify::send(Arc::clone(&shared), hints));
        tasks.spawn(notify::listen(Arc::clone(&shared), tls));
        tasks.spawn(upkeep::run(Arc::clone(&shared), host));
        Ok(Self { shared, _tasks: tasks })
    }
}
