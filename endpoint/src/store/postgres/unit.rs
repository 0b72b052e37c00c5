//! The unit of work: rows are locked and put into an empty queue, the state machine decides, and what changed is written in the same
//! transaction. The counters of the lane are locked last.

use std::time::Duration;

use deadpool_postgres::ClientWrapper;

use super::failure::Failure;
use super::lock::{Loaded, Needs};
use super::rows;
use super::scope::Scope;
use super::texts::Wanted;
use super::work::Work;
use super::write::Writes;
use crate::store::counts::Totals;
use crate::store::job::Position;
use crate::store::queue::Effect;

/// What is to be done once the transaction lasts.
#[derive(Debug)]
pub(super) struct Done {
    /// Names the transaction, so that it can be asked for.
    pub(super) token: String,
    pub(super) effects: Vec<Effect>,
    pub(super) totals: Totals,
    /// The first place at which a job waits that did not wait there before.
    pub(super) first_waiting: Option<Position>,
}

/// Runs the operations in one transaction. `sent` is filled in when the outcome can be unknown from then on.
pub(super) async fn run(
    client: &ClientWrapper,
    place: &Scope<'_>,
    works: &mut [Box<dyn Work>],
    sent: &mut Option<Done>,
) -> Result<(), Failure> {
    let Loaded { mut queue, now, due, numbers, found, .. } = Loaded::lock(client, place, &Needs::of(works)).await?;
    let before = queue.contents();
    queue.tick(due);
    queue.give_numbers(numbers);
    for work in works.iter_mut() {
        work.decide(&mut queue, now);
    }
    let token = uuid::Uuid::new_v4().to_string();
    let writes = Writes::of(&mut queue, &found, before)?;
    let done =
        Done { token, effects: queue.take_effects(), totals: queue.totals(), first_waiting: writes.first_waiting() };
    if writes.is_empty() {
        client.batch_execute("ROLLBACK").await?;
        *sent = Some(done);
        return Ok(());
    }
    writes.prepare(client).await?;
    let wanted = Wanted::of(works);
    let token = sent.insert(done).token.clone();
    let (committed, texts) = tokio::join!(biased; writes.commit(client, place, &token), wanted.read(client));
    committed?;
    texts.put_into(works);
    Ok(())
}

/// Whether the lane's last transaction is this one. Waits until a transaction in doubt has ended.
pub(super) async fn was_committed(client: &ClientWrapper, place: &Scope<'_>, token: &str) -> Result<bool, Failure> {
    let [lock, find] = [client.prepare_cached(rows::LOCK_LANE).await?, client.prepare_cached(rows::TOKEN).await?];
    client.query_one(&lock, &[&place.endpoint, &place.replica, &place.lane]).await?;
    let found = client.query_opt(&find, &[&place.endpoint, &place.replica, &place.lane]).await?;
    Ok(found.is_some_and(|row| row.get::<_, &str>(0) == token))
}

/// How long one unit may take before its connection counts as lost.
pub(super) const UNIT_LIMIT: Duration = Duration::from_secs(15);
