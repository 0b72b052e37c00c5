//! The store that several replicas share: the same state machine, over rows of a PostgreSQL database.
//!
//! Nothing is kept in memory but who waits. For each batch of operations the rows that they need are locked and put into an empty
//! [`Queue`](super::queue::Queue), which decides; what changed is written in the same transaction, and hints wake whoever waits here or
//! at another replica.

mod batch_rows;
mod batches;
mod check;
mod connect;
mod database_error;
mod endpoints;
mod failure;
mod floor;
mod hints;
mod local;
mod lock;
mod lost_hints;
mod notify;
mod operations;
mod overdue;
mod patience;
mod poll;
mod read;
mod room;
mod rows;
mod schema;
mod scope;
mod shared;
mod store;
mod takeover;
mod texts;
mod transfer;
mod unit;
mod upkeep;
mod work;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

pub use check::{Finding, Verdict, check_database, migrate_database};
pub use connect::DatabaseUrl;
pub use database_error::DatabaseError;
pub(crate) use transfer::{DatabaseSource, DatabaseTarget};

use super::error::StoreError;
use super::setup::Setup;
use hints::Notifier;
use patience::Patience;
use room::Room;
use shared::Shared;
use upkeep::Upkeep;

/// The store in a database.
pub struct PostgresStore {
    shared: Arc<Shared>,
    /// Cancelled when this replica is to leave.
    leaving: CancellationToken,
    /// Cancelled once it has left.
    left: CancellationToken,
    /// Ends with the store.
    _tasks: JoinSet<()>,
}

impl PostgresStore {
    /// Connects, brings the tables up to date and takes part from then on. Must be used inside a tokio runtime.
    ///
    /// # Errors
    /// When the database cannot be used; the text says what to do.
    pub async fn open(url: DatabaseUrl, setup: impl Into<Setup>) -> Result<Self, DatabaseError> {
        Self::open_within(url, setup, Duration::ZERO).await
    }

    /// The same, and waits that long for a database that cannot be used yet.
    ///
    /// # Errors
    /// When the database cannot be used, and that is a mistake or lasts for too long; the text says what to do.
    pub async fn open_within(
        url: DatabaseUrl,
        setup: impl Into<Setup>,
        limit: Duration,
    ) -> Result<Self, DatabaseError> {
        let tls = connect::tls()?;
        let pool = connect::pool(&url, tls.clone())?;
        let mut patience = Patience::new(limit);
        while let Err(error) = prepare(&pool, &url, &tls).await {
            patience.pause(error).await?;
        }
        let (notifier, hints) = Notifier::new();
        let shared = Arc::new(Shared {
            url,
            pool,
            room: Room::new(),
            replica: uuid::Uuid::new_v4().to_string(),
            setup: setup.into(),
            locals: Mutex::new(HashMap::new()),
            notifier,
            figures: Mutex::default(),
            away: watch::Sender::new(None),
            refusal: Mutex::default(),
        });
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut upkeep = Upkeep::new(&shared, host);
        while let Err(error) = take_part(&shared, &mut upkeep).await {
            patience.pause(shared.why_not(error)).await?;
        }
        patience.end();
        let (leaving, left) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(notify::send(Arc::clone(&shared), hints));
        tasks.spawn(notify::listen(Arc::clone(&shared), tls));
        let upkeep = upkeep.run(leaving.clone());
        let has_left = left.clone().drop_guard();
        tasks.spawn(async move {
            upkeep.await;
            drop(has_left);
        });
        Ok(Self { shared, leaving, left, _tasks: tasks })
    }
}

async fn prepare(pool: &Pool, url: &DatabaseUrl, tls: &MakeRustlsConnect) -> Result<(), DatabaseError> {
    let client = connect::first(pool, url).await?;
    // Before anything is created: through a pooler of the wrong kind it would be by several sessions.
    notify::probe(url, tls, &client).await?;
    schema::migrate(&client, url).await.map(drop)
}

async fn take_part(shared: &Arc<Shared>, upkeep: &mut Upkeep) -> Result<(), StoreError> {
    upkeep.once().await?;
    for endpoint in &shared.setup.endpoints {
        shared.endpoint(endpoint).await?;
    }
    Ok(())
}
