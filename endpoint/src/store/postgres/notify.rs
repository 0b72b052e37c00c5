//! Hints from one replica to the others: "a job waits", "this job has changed". They are sent after the commit, in a transaction of
//! their own, many at once: a notification inside of the data's transaction would hold a lock that all commits share. A hint that is
//! lost costs a second, because what waits is looked at once a second anyway.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::AsyncMessage;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{self, DatabaseUrl, SESSION, reason};
use super::database_error::DatabaseError;
use super::hints::{Hint, Kind, messages};
use super::shared::Shared;

const CHANNEL: &str = "runpod_endpoint";

/// Between two messages. Hints are collected meanwhile; the first one after a quiet moment is sent at once.
const PAUSE: Duration = Duration::from_millis(2);

const NOTIFY: &str = "SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message";

/// Hints sent at once.
const MAX_AT_ONCE: usize = 2000;

/// Before a lost connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long it may take to listen. A server that accepts connections and does nothing else would hold the listener for ever.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);

/// How long a notification may take at the start.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// Sends hints for as long as the store lives.
pub(super) async fn send(shared: Arc<Shared>, mut hints: mpsc::Receiver<Hint>) {
    while let Some(first) = hints.recv().await {
        let mut some = BTreeSet::from([first]);
        while some.len() < MAX_AT_ONCE
            && let Ok(hint) = hints.try_recv()
        {
            some.insert(hint);
        }
        let messages = messages(&shared.replica, some);
        if let Err(error) = shared.query(NOTIFY, &[&CHANNEL, &messages]).await {
            tracing::debug!(%error, "Hints to other replicas are lost. They look once a second.");
        }
        sleep(PAUSE).await;
    }
}

/// Listens for as long as the store lives. After a lost connection everybody looks once.
pub(super) async fn listen(shared: Arc<Shared>, tls: MakeRustlsConnect) {
    loop {
        match timeout(SUBSCRIBE_LIMIT, subscribe(&shared.url, &tls)).await {
            Ok(Ok((_client, mut notifications))) => {
                wake_everybody(&shared);
                while let Some(message) = notifications.recv().await {
                    receive(&shared, &message);
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "Hints of other replicas do not arrive. Whoever waits looks once a second.");
            }
            Err(_) => tracing::debug!("The database does not answer; hints of other replicas do not arrive."),
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn subscribe(
    url: &DatabaseUrl,
    tls: &MakeRustlsConnect,
) -> Result<(tokio_postgres::Client, mpsc::Receiver<String>), DatabaseError> {
    let (client, mut connection) = connect::open(url.config(), tls).await.map_err(|error| url.explain(&error))?;
    let (sender, receiver) = mpsc::channel(1024);
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    if sender.send(notification.payload().to_owned()).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(error = reason(&error), "The listening connection has ended.");
                    return;
                }
            }
        }
    });
    client.batch_execute(&format!("{SESSION}; LISTEN {CHANNEL}")).await.map_err(|error| url.explain(&error))?;
    Ok((client, receiver))
}

/// Finds out whether notifications arrive: through a pooler that hands a session to one transaction after the other they do not.
pub(super) async fn probe(
    url: &DatabaseUrl,
    tls: &MakeRustlsConnect,
    client: &deadpool_postgres::Client,
) -> Result<(), DatabaseError> {
    let (_listening, mut notifications) = subscribe(url, tls).await?;
    let word = format!("probe {}", uuid::Uuid::new_v4());
    client.execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &word]).await.map_err(|error| url.explain(&error))?;
    let arrived = async {
        while let Some(message) = notifications.recv().await {
            if message == word {
                return true;
            }
        }
        false
    };
    match timeout(PROBE_LIMIT, arrived).await {
        Ok(true) => Ok(()),
        _ => Err(DatabaseError::Pooler),
    }
}

fn receive(shared: &Shared, message: &str) {
    let Ok((sender, hints)) = serde_json::from_str::<(String, Vec<Hint>)>(message) else { return };
    if sender == shared.replica {
        return;
    }
    for (kind, endpoint, key) in hints {
        let Some(local) = shared.find(&endpoint) else { continue };
        match kind {
            Kind::Q => local.wakers.jobs_waiting.notify_one(),
            Kind::J => local.wakers.job_readers.wake(&key),
            Kind::S => local.wakers.stop_polls.wake(&key),
            Kind::R => local.wakers.supervisors.wake(&key),
        }
    }
}

fn wake_everybody(shared: &Shared) {
    for local in shared.locals.lock().values() {
        local.wakers.jobs_waiting.notify_waiters();
        local.wakers.job_readers.wake_all();
        local.wakers.stop_polls.wake_all();
        local.wakers.supervisors.wake_all();
    }
}
