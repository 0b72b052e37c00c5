//! Delivers messages one after the other, in the background.

use std::time::Duration;

use backoff::SystemClock;
use backoff::backoff::Backoff as _;
use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::message::Message;
use crate::webhook::Webhook;

/// Messages that may wait.
const MAX_WAITING: usize = 64;

/// The first pause between tries, approximately.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between tries; also the longest `Retry-After` that is followed.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// After this time a message is dropped, because it is out of date.
const GIVE_UP: Duration = Duration::from_secs(900);

/// Messages on their way to a webhook.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::Sender<Message>,
    task: JoinHandle<()>,
}

impl Sender {
    /// Starts delivering.
    pub fn start(webhook: Webhook) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        Self { queue, task: tokio::spawn(deliver_all(webhook, waiting)) }
    }

    /// Queues a message without waiting. When the queue is full, the message is dropped with a warning.
    pub fn send(&self, message: Message) {
        if let Err(error) = self.queue.try_send(message) {
            let title = error.into_inner().title;
            tracing::warn!(title, "An alert is dropped: {MAX_WAITING} others wait for the webhook.");
        }
    }

    /// Waits, for at most `limit`, until the queued messages are delivered. No more are accepted.
    pub async fn finish(self, limit: Duration) {
        drop(self.queue);
        let abort = self.task.abort_handle();
        if timeout(limit, self.task).await.is_err() {
            abort.abort();
            tracing::warn!(?limit, "Alerts were not delivered in time and are dropped.");
        }
    }
}

async fn deliver_all(webhook: Webhook, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        deliver(&webhook, &message).await;
    }
}

async fn deliver(webhook: &Webhook, message: &Message) {
    let title = &message.title;
    let begin = Instant::now();
    let mut pauses = pauses();
    let mut attempt = 0u32;
    loop {
        attempt += 1;
        let Err(error) = webhook.post(message).await else {
            tracing::debug!(title, attempt, "An alert was delivered.");
            return;
        };
        if !error.is_temporary() || begin.elapsed() >= GIVE_UP {
            tracing::warn!(title, attempt, %error, "An alert cannot be delivered and is dropped.");
            return;
        }
        if attempt == 1 {
            tracing::info!(title, %error, "An alert was not delivered. Trying again.");
        }
        let own = pauses.next_backoff().unwrap_or(PAUSE_MAX);
        sleep(error.retry_after().unwrap_or_default().max(own).min(PAUSE_MAX)).await;
    }
}

fn pauses() -> ExponentialBackoff<SystemClock> {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(PAUSE)
        .with_max_interval(PAUSE_MAX)
        .with_multiplier(2.0)
        .with_max_elapsed_time(None)
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;

    use super::*;
    use crate::message::Format;
    use crate::webhook::WebhookUrl;

    type Bodies = Arc<Mutex<Vec<String>>>;

    /// A receiver that answers with these statuses, then with 204, and records the bodies.
    async fn receiver(statuses: &[u16]) -> (WebhookUrl, Bodies) {
        let seen = Bodies::default();
        let statuses = Arc::new(Mutex::new(statuses.iter().rev().copied().collect::<Vec<u16>>()));
        let note = Arc::clone(&seen);
        let hook = move |body: String| async move {
            note.lock().unwrap().push(body);
            let status = statuses.lock().unwrap().pop().unwrap_or(204);
            (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere"), ("retry-after", "0")])
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/hook", post(hook))).await });
        (WebhookUrl::parse(&url).unwrap(), seen)
    }

    async fn send(statuses: &[u16], titles: &[&str]) -> Vec<String> {
        let (url, seen) = receiver(statuses).await;
        let sender = Sender::start(Webhook::new(url, Format::Plain).unwrap());
        for title in titles {
            sender.send(Message::test(title, SystemTime::now()));
        }
        sender.finish(Duration::from_secs(20)).await;
        let bodies = seen.lock().unwrap();
        let title = |body: &String| {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            body["title"].as_str().unwrap().to_owned()
        };
        bodies.iter().map(title).collect()
    }

    #[tokio::test]
    async fn messages_arrive_in_order_and_are_repeated_until_accepted() {
        assert_eq!(send(&[503, 429], &["one", "two"]).await, ["one: test", "one: test", "one: test", "two: test"]);
    }

    #[tokio::test]
    async fn a_refused_message_is_not_repeated() {
        assert_eq!(send(&[404, 301], &["one", "two", "three"]).await, ["one: test", "two: test", "three: test"]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_newest_messages_without_waiting() {
        let (url, seen) = receiver(&[]).await;
        let sender = Sender::start(Webhook::new(url, Format::Plain).unwrap());
        // The runtime has one thread: the task cannot run before the test waits.
        for number in 0..MAX_WAITING + 10 {
            sender.send(Message::test(&number.to_string(), SystemTime::now()));
        }
        sender.finish(Duration::from_secs(20)).await;
        assert_eq!(seen.lock().unwrap().len(), MAX_WAITING);
    }
}
