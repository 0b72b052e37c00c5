//! Hints from one replica to the others: "a job waits", "this job has changed". They are sent after the commit, in a transaction of
//! their own, many at once: a notification inside of the data's transaction would hold a lock that all commits share. A hint that is
//! lost costs a second, because what waits is looked at once a second anyway.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::AsyncMessage;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{DatabaseError, DatabaseUrl, reason};
use super::shared::Shared;
use crate::store::queue::Effect;

const CHANNEL: &str = "runpod_endpoint";

/// Hints are collected for this long.
const COLLECTED_FOR: Duration = Duration::from_millis(2);

/// Bytes of one notification; the server allows 8000.
const MAX_BYTES: usize = 7000;

/// Hints that may wait to be sent, and hints sent at once.
const MAX_WAITING: usize = 16_384;
const MAX_AT_ONCE: usize = 2000;

/// Before a lost connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long a notification may take at the start.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// What happened, the endpoint, and the job or worker.
pub(super) type Hint = (Kind, String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) enum Kind {
    /// Jobs wait.
    Q,
    /// A job has changed.
    J,
    /// A stop signal waits for a worker.
    S,
    /// A worker asked to be replaced.
    R,
}

/// The way to the other replicas.
pub(super) struct Notifier {
    sender: mpsc::Sender<Hint>,
    /// Whether there are others.
    has_others: AtomicBool,
}

impl Notifier {
    pub(super) fn new() -> (Self, mpsc::Receiver<Hint>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self { sender, has_others: AtomicBool::new(true) }, receiver)
    }

    pub(super) fn set_has_others(&self, has_others: bool) {
        self.has_others.store(has_others, Ordering::Relaxed);
    }

    /// Passes on what others may wait for.
    pub(super) fn tell(&self, endpoint: &str, effects: &[Effect]) {
        if !self.has_others.load(Ordering::Relaxed) {
            return;
        }
        for effect in effects {
            let (kind, key) = match effect {
                Effect::JobWaiting => (Kind::Q, ""),
                Effect::JobChanged(id) => (Kind::J, &**id),
                Effect::StopWaiting(worker) => (Kind::S, &**worker),
                Effect::WorkerRecycled(worker) => (Kind::R, &**worker),
                Effect::JobFinished(..)
                | Effect::WebhookDue(_)
                | Effect::DuplicateWorker(_)
                | Effect::WorkerUnfit(_) => continue,
            };
            // A full channel loses hints, which costs those who wait a second.
            let _ = self.sender.try_send((kind, endpoint.to_owned(), key.to_owned()));
        }
    }
}

/// Sends hints for as long as the store lives.
pub(super) async fn send(shared: Arc<Shared>, mut hints: mpsc::Receiver<Hint>) {
    while let Some(first) = hints.recv().await {
        sleep(COLLECTED_FOR).await;
        let mut some = BTreeSet::from([first]);
        while some.len() < MAX_AT_ONCE
            && let Ok(hint) = hints.try_recv()
        {
            some.insert(hint);
        }
        let messages = messages(&shared.replica, some);
        let sql = "SELECT pg_notify('runpod_endpoint', message) FROM unnest($1::text[]) AS message";
        if let Err(error) = shared.query(sql, &[&messages]).await {
            tracing::debug!(%error, "Hints to other replicas are lost. They look once a second.");
        }
    }
}

/// Each message begins with its sender, who ignores it.
fn messages(replica: &str, hints: BTreeSet<Hint>) -> Vec<String> {
    let mut messages = Vec::new();
    let (mut some, mut bytes) = (Vec::new(), 0);
    for hint in hints {
        // Quotes, commas and brackets; ids are letters and the like.
        bytes += hint.1.len() + hint.2.len() + 16;
        if bytes > MAX_BYTES && !some.is_empty() {
            messages.extend(serde_json::to_string(&(replica, std::mem::take(&mut some))));
            bytes = 0;
        }
        some.push(hint);
    }
    messages.extend(serde_json::to_string(&(replica, some)));
    messages
}

/// Listens for as long as the store lives. After a lost connection everybody looks once.
pub(super) async fn listen(shared: Arc<Shared>, tls: MakeRustlsConnect) {
    loop {
        match subscribe(&shared.url, &tls).await {
            Ok((_client, mut notifications)) => {
                wake_everybody(&shared);
                while let Some(message) = notifications.recv().await {
                    receive(&shared, &message);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "Hints of other replicas do not arrive. Whoever waits looks once a second.");
            }
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn subscribe(
    url: &DatabaseUrl,
    tls: &MakeRustlsConnect,
) -> Result<(tokio_postgres::Client, mpsc::Receiver<String>), DatabaseError> {
    let (client, mut connection) = url.config().connect(tls.clone()).await.map_err(|error| url.explain(&error))?;
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
    client.batch_execute(&format!("LISTEN {CHANNEL}")).await.map_err(|error| url.explain(&error))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hints_fit_into_messages_of_bounded_length() {
        let hints: BTreeSet<_> = (0..2000).map(|n| (Kind::J, "endpoint".to_owned(), format!("{n:0>64}"))).collect();
        let messages = messages("replica", hints.clone());
        assert!(messages.len() > 10 && messages.iter().all(|message| message.len() < 8000));
        let read = messages.iter().flat_map(|message| serde_json::from_str::<(String, Vec<Hint>)>(message).unwrap().1);
        assert_eq!(read.collect::<BTreeSet<_>>(), hints);
    }
}
