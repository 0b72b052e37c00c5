//! Which endpoints there are. Clients may use any id, so that those that are no longer used make room.

use std::sync::Arc;

use deadpool_postgres::Client;

use super::failure::Failure;
use super::local::Local;
use super::shared::{ANSWER_LIMIT, Shared, unanswered, unavailable};
use crate::store::error::StoreError;

/// Endpoint ids in use at once, at all replicas.
const MAX_ENDPOINTS: i64 = 1000;

const LOCK: &str = "SELECT pg_advisory_xact_lock(7309453286513714)";
const FIND: &str = "SELECT EXISTS (SELECT 1 FROM endpoints WHERE name = $1), (SELECT count(*) FROM endpoints)";
/// The oldest endpoint that has neither jobs nor workers nor batches and is not configured.
const MAKE_ROOM: &str = "DELETE FROM endpoints WHERE name = (SELECT name FROM endpoints WHERE name <> ALL($1::text[]) AND NOT paused \
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE endpoint = name) AND NOT EXISTS (SELECT 1 FROM workers WHERE endpoint = name) \
    AND NOT EXISTS (SELECT 1 FROM batches WHERE endpoint = name) \
    ORDER BY number LIMIT 1)";
const ADD: &str = "INSERT INTO endpoints (name) VALUES ($1) ON CONFLICT DO NOTHING";

impl Shared {
    /// The endpoint, created on first use.
    pub(super) async fn endpoint(self: &Arc<Self>, name: &str) -> Result<Arc<Local>, StoreError> {
        if let Some(local) = self.find(name) {
            return Ok(local);
        }
        self.ready()?;
        let (shared, name) = (Arc::clone(self), name.to_owned());
        // A task of its own: a request that ends in the middle would leave its transaction open.
        let created = tokio::spawn(async move { shared.find_or_create(&name).await });
        created.await.unwrap_or_else(|_| Err(unavailable("the endpoint was not created")))
    }

    async fn find_or_create(&self, name: &str) -> Result<Arc<Local>, StoreError> {
        let created = self.connected(ANSWER_LIMIT, async |client| {
            client.batch_execute("BEGIN").await?;
            let outcome = self.create(client, name).await;
            let end = if matches!(outcome, Ok(true)) { "COMMIT" } else { "ROLLBACK" };
            client.batch_execute(end).await?;
            outcome
        });
        match created.await.map_err(unanswered)? {
            true => Ok(self.local(name)),
            false => Err(StoreError::TooManyEndpoints),
        }
    }

    /// Whether there is room for it.
    async fn create(&self, client: &Client, name: &str) -> Result<bool, Failure> {
        client.execute(LOCK, &[]).await?;
        let row = client.query_one(FIND, &[&name]).await?;
        let (exists, count): (bool, i64) = (row.get(0), row.get(1));
        if exists {
            return Ok(true);
        }
        if count >= MAX_ENDPOINTS {
            let configured: Vec<&String> = self.setup.endpoints.iter().collect();
            // What replicas keep for it goes with their next look at the endpoints.
            if client.execute(MAKE_ROOM, &[&configured]).await? == 0 {
                return Ok(false);
            }
        }
        client.execute(ADD, &[&name]).await?;
        Ok(true)
    }
}
