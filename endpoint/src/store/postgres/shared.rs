//! What all endpoints of a replica have in common: the connections, who this replica is, and how units of work get through.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool, PoolError, TimeoutType};
use parking_lot::Mutex;
use tokio::sync::{SemaphorePermit, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::connect::DatabaseUrl;
use super::database_error::DatabaseError;
use super::failure::Failure;
use super::hints::Notifier;
use super::local::{DELAY, Local, Start};
use super::room::Room;
use super::scope::Scope;
use super::unit::{self, Done, UNIT_LIMIT};
use super::work::{Asked, Need, Noted, Work};
use crate::store::clock::Timestamp;
use crate::store::counts::DatabaseFigures;
use crate::store::error::StoreError;
use crate::store::payload::Filed;
use crate::store::queue::Queue;
use crate::store::setup::Setup;
use crate::store::wakers::Wakers;

/// How long one request waits for the database.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Tries of a unit that others get in the way of.
const MAX_CONFLICTS: u32 = 100;

/// Before the database is asked again that did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// One replica.
pub(super) struct Shared {
    pub(super) url: DatabaseUrl,
    pub(super) pool: Pool,
    pub(super) room: Room,
    /// The id of this replica, new with each start.
    pub(super) replica: String,
    pub(super) setup: Setup,
    pub(super) locals: Mutex<HashMap<String, Arc<Local>>>,
    pub(super) notifier: Notifier,
    /// What the latest round of upkeep has found.
    pub(super) figures: Mutex<DatabaseFigures>,
    /// Why the database cannot be used, while it cannot. For the log: it names hosts, users and files.
    pub(super) away: watch::Sender<Option<Arc<str>>>,
    /// Why the latest round of upkeep was refused, while it is.
    pub(super) refusal: Mutex<Option<Arc<str>>>,
}

/// Why nothing is known of a database that is silent.
pub(super) const DOES_NOT_ANSWER: &str = "it does not answer";

/// What a request is told when the database did not do what was asked of it. Why the database is away or refuses everything is the
/// operator's business, and in the log.
pub(super) fn unanswered(failure: Failure) -> StoreError {
    match failure {
        Failure::Away(_) => away(),
        Failure::Refused(_) => StoreError::Unavailable("the database refuses it".into()),
        Failure::Unacceptable(reason) => StoreError::Refused(reason),
        Failure::Again => unavailable("other operations are in the way"),
    }
}

/// The error of a request while the database is away.
pub(super) fn away() -> StoreError {
    StoreError::Unavailable("the database is away".into())
}

/// The error of a request that the database did not get to. The reason is shown to clients.
pub(super) fn unavailable(reason: &'static str) -> StoreError {
    StoreError::Unavailable(format!("the database is away: {reason}").into())
}

impl Shared {
    /// Fails at once while the database is known to be away.
    pub(super) fn ready(&self) -> Result<(), StoreError> {
        if self.away.borrow().is_some() { Err(away()) } else { Ok(()) }
    }

    /// Notes that the database does not answer. One line for each change of the reason.
    pub(super) fn note_away(&self, reason: &Arc<str>) {
        let (mut was_away, mut is_news) = (false, false);
        self.away.send_if_modified(|away| {
            (was_away, is_news) = (away.is_some(), away.as_ref() != Some(reason));
            *away = Some(Arc::clone(reason));
            !was_away
        });
        match (was_away, is_news) {
            (false, _) => {
                tracing::error!(error = &**reason, "The database is away. Requests are refused until it is back.");
            }
            (true, true) => tracing::warn!(error = &**reason, "The database is still away."),
            (true, false) => {}
        }
    }

    /// Notes whether the database answers and refuses what upkeep asks of it, as with a full disk. One line for each change.
    pub(super) fn note_refusal(&self, reason: Option<&Arc<str>>) {
        let mut refusal = self.refusal.lock();
        if refusal.as_ref() == reason {
            return;
        }
        match reason {
            Some(reason) => tracing::error!(error = &**reason, "The database refuses to be written to."),
            None => tracing::info!("The database can be written to again."),
        }
        *refusal = reason.cloned();
    }

    /// Notes that the database answers.
    pub(super) fn note_back(&self) {
        let was_away = self.away.borrow().is_some();
        if was_away && self.away.send_replace(None).is_some() {
            tracing::info!("The database is back.");
        }
    }

    /// Why a replica cannot take part yet, for its operator.
    pub(super) fn why_not(&self, error: StoreError) -> DatabaseError {
        let reason = self.away.borrow().clone().or_else(|| self.refusal.lock().clone());
        match (reason, error) {
            (Some(reason), _) => DatabaseError::NotNow(reason.to_string()),
            (None, StoreError::Unavailable(reason)) => DatabaseError::NotNow(reason.to_string()),
            (None, error) => DatabaseError::Other(error.to_string()),
        }
    }

    /// The endpoint, if this replica knows it.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Local>> {
        self.locals.lock().get(name).cloned()
    }

    /// What this replica keeps for an endpoint that exists.
    pub(super) fn local(&self, name: &str) -> Arc<Local> {
        let mut locals = self.locals.lock();
        let new = || Local::new(name, self.setup.limits_of(name), Wakers::new(name, self.setup.webhooks.clone()));
        Arc::clone(locals.entry(name.to_owned()).or_insert_with(new))
    }

    /// Runs an operation; returns once its outcome lasts.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        local: &Arc<Local>,
        need: Need,
        decide: impl Fn(&mut Queue<Filed>, Timestamp) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_seen(local, need, decide, |_| Vec::new(), |decided| decided).await
    }

    /// The same, with `payloads` of the outcome loaded where they are small, and with `seen` applied to it once it lasts, whether or
    /// not somebody still waits for it.
    pub(super) async fn run_seen<T: Send + 'static, U: Send + 'static>(
        self: &Arc<Self>,
        local: &Arc<Local>,
        need: Need,
        decide: impl Fn(&mut Queue<Filed>, Timestamp) -> T + Send + 'static,
        payloads: fn(&mut T) -> Vec<&mut Filed>,
        seen: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, StoreError> {
        self.ready()?;
        let (reply, answer) = oneshot::channel();
        self.file(local, Box::new(Asked { need, decide, decided: None, payloads, seen, reply }));
        match timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(unavailable("the operation was given up")),
            Err(_) => Err(unavailable("it does not answer in time, and may have done it all the same")),
        }
    }

    /// Has an operation done that nobody waits for.
    pub(super) fn note(
        self: &Arc<Self>,
        local: &Arc<Local>,
        need: Need,
        decide: impl Fn(&mut Queue<Filed>, Timestamp) + Send + 'static,
    ) {
        self.file(local, Box::new(Noted { need, decide }));
    }

    fn file(self: &Arc<Self>, local: &Arc<Local>, work: Box<dyn Work>) {
        let start = match local.file(work) {
            Ok(start) => start,
            Err(work) => return work.answer(Err(unavailable("it is too slow for what is asked of it"))),
        };
        // Without a runtime the process ends; leases bring back what it held.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shared, local) = (Arc::clone(self), Arc::clone(local));
        match start {
            Start::No => {}
            Start::Lane(lane) => drop(runtime.spawn(async move { shared.work(&local, lane).await })),
            Start::Delayed => drop(runtime.spawn(async move {
                sleep(DELAY).await;
                if let Some(lane) = local.end_delay() {
                    shared.work(&local, lane).await;
                }
            })),
        }
    }

    /// Works off what waits.
    async fn work(&self, local: &Local, lane: i16) {
        let _occupied = local.occupy(lane);
        while let Some(works) = local.next_unit(lane) {
            self.perform(local, lane, works).await;
        }
    }

    /// Gets a unit through. What the database refuses is refused to the operation whose fault it is, and not to others of its unit:
    /// then each is a unit of its own.
    async fn perform(&self, local: &Local, lane: i16, works: Vec<Box<dyn Work>>) {
        let Err((works, failure)) = self.get_through(local, lane, works).await else { return };
        if works.len() == 1 || matches!(failure, Failure::Again) {
            return self.fail(local, works, &failure);
        }
        for work in works {
            if let Err((works, failure)) = self.get_through(local, lane, vec![work]).await {
                self.fail(local, works, &failure);
            }
        }
    }

    /// Past other units in its way, and past a connection that is lost at the commit. Operations that it cannot get through are
    /// given back.
    async fn get_through(
        &self,
        local: &Local,
        lane: i16,
        mut works: Vec<Box<dyn Work>>,
    ) -> Result<(), (Vec<Box<dyn Work>>, Failure)> {
        let mut conflicts = 0;
        loop {
            works.retain(|work| work.is_wanted());
            if works.is_empty() {
                return Ok(());
            }
            // As it is now: a unit may have to wait for longer than a floor holds.
            let floor = local.floor.lock().at(Instant::now());
            let place = Scope { endpoint: &local.name, limits: local.limits, replica: &self.replica, floor, lane };
            let mut sent = None;
            let failure = match self.attempt(&place, &mut works, &mut sent).await {
                Ok(()) => {
                    self.finish(local, sent, works);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            match (failure, sent) {
                (Failure::Again, _) if conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                    sleep(Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0] % 16))).await;
                }
                (failure @ (Failure::Again | Failure::Refused(_) | Failure::Unacceptable(_)), _) => {
                    return Err((works, failure));
                }
                (Failure::Away(reason), sent) => {
                    tracing::debug!(error = &*reason, "A connection to the database was lost.");
                    match sent {
                        // Never repeated blindly: it may have been committed.
                        Some(done) if self.was_committed(&place, &done.token).await => {
                            self.finish(local, Some(done), works);
                            return Ok(());
                        }
                        Some(_) => {}
                        None => sleep(RETRY_PAUSE).await,
                    }
                }
            }
        }
    }

    /// Answers operations that did not come about.
    fn fail(&self, local: &Local, works: Vec<Box<dyn Work>>, failure: &Failure) {
        if let Failure::Refused(reason) | Failure::Unacceptable(reason) = failure {
            tracing::error!(error = &**reason, endpoint = &*local.name, "The database refuses a change.");
        }
        works.into_iter().for_each(|work| work.answer(Err(unanswered(failure.clone()))));
    }

    async fn attempt(
        &self,
        place: &Scope<'_>,
        works: &mut [Box<dyn Work>],
        sent: &mut Option<Done>,
    ) -> Result<(), Failure> {
        let (client, _place) = self.client().await?;
        let begun = Instant::now();
        let outcome = match timeout(UNIT_LIMIT, unit::run(&client, place, works, sent)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let reason = DOES_NOT_ANSWER.into();
                self.note_away(&reason);
                Err(Failure::Away(reason))
            }
        };
        if let Err(failure) = &outcome {
            let rolled_back = timeout(RETRY_PAUSE * 8, client.batch_execute("ROLLBACK")).await;
            if matches!(failure, Failure::Away(_)) || !matches!(rolled_back, Ok(Ok(()))) {
                // Whatever state it is in, nobody else gets it.
                drop(Object::take(client));
            }
        } else {
            self.note_back();
            let mut figures = self.figures.lock();
            figures.transactions += 1;
            figures.transaction_time += begun.elapsed();
        }
        outcome
    }

    /// Asks until there is an answer.
    async fn was_committed(&self, place: &Scope<'_>, token: &str) -> bool {
        loop {
            let asked = self.connected(UNIT_LIMIT, async |client| unit::was_committed(client, place, token).await);
            if let Ok(was_committed) = asked.await {
                self.note_back();
                tracing::info!(was_committed, "The outcome of a commit was unknown and has been looked up.");
                return was_committed;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn finish(&self, local: &Local, done: Option<Done>, works: Vec<Box<dyn Work>>) {
        let Some(Done { effects, totals, first_waiting, .. }) = done else { return };
        if let Some(place) = first_waiting {
            local.floor.lock().lower(Instant::now(), place);
        }
        *local.totals.lock() += totals;
        works.into_iter().for_each(|work| work.answer(Ok(())));
        for effect in &effects {
            local.wakers.perform(effect);
        }
        self.notifier.tell(&local.name, &effects);
    }

    /// A connection, and the place of the one who has it. One that is lost says nothing about the others; that none can be opened means
    /// that the database is away.
    pub(super) async fn client(&self) -> Result<(Client, SemaphorePermit<'_>), Failure> {
        loop {
            let place = self.room.place().await?;
            let error = match self.pool.get().await {
                Ok(client) => return Ok((client, place)),
                Err(error) => error,
            };
            let reason: Arc<str> = match &error {
                // The server has no more for us, and is not away: those who have one give it back.
                PoolError::Backend(error)
                    if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) && self.pool.status().size > 0 =>
                {
                    self.room.lose(place);
                    continue;
                }
                PoolError::Backend(error) => self.url.explain(error).to_string().into(),
                PoolError::Timeout(TimeoutType::Create) => DOES_NOT_ANSWER.into(),
                // All are in use.
                _ => return Err(Failure::Away(error.to_string().into())),
            };
            self.note_away(&reason);
            return Err(Failure::Away(reason));
        }
    }

    /// Works on a connection. One that is lost, or on which the work has not ended in time, goes to nobody else.
    pub(super) async fn connected<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (client, _place) = self.client().await?;
        let outcome =
            timeout(limit, work(&client)).await.unwrap_or_else(|_| Err(Failure::Away(DOES_NOT_ANSWER.into())));
        if matches!(outcome, Err(Failure::Away(_))) {
            drop(Object::take(client));
        }
        outcome
    }

    /// Reads outside of a unit of work. A connection that turns out to be lost is replaced once.
    pub(super) async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        self.ready()?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        let outcome = match self.query_once(sql, values).await {
            Err(Failure::Away(_) | Failure::Again) if Instant::now() < deadline => self.query_once(sql, values).await,
            outcome => outcome,
        };
        if let Err(Failure::Refused(reason) | Failure::Unacceptable(reason)) = &outcome {
            tracing::error!(error = &**reason, "The database refuses a question.");
        }
        outcome.map_err(unanswered)
    }

    /// The same, once, and although the database may be away.
    pub(super) async fn query_once(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failure> {
        self.connected(ANSWER_LIMIT, async |client| {
            let statement = client.prepare_cached(sql).await?;
            Ok(client.query(&statement, values).await?)
        })
        .await
    }
}
