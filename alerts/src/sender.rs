//! Delivers messages one after the other, without holding anybody up.

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

/// Pauses between attempts grow from about this …
const PAUSE: Duration = Duration::from_secs(1);

/// … to this, which also bounds what the receiver may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A message is given up after this time: old news.
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

    /// Sends a message. Never waits: when too many wait already, it is dropped with a warning.
    pub fn send(&self, message: Message) {
        if let Err(error) = self.queue.try_send(message) {
            let title = error.into_inner().title;
            tracing::warn!(title, "an alert is not sent: {MAX_WAITING} others wait for the webhook");
        }
    }

    /// Takes no more messages and waits until those that wait are delivered, for at most `limit`.
    pub async fn finish(self, limit: Duration) {
        drop(self.queue);
        let abort = self.task.abort_handle();
        if timeout(limit, self.task).await.is_err() {
            abort.abort();
            tracing::warn!(?limit, "alerts were not delivered in time and are dropped");
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
            tracing::debug!(title, attempt, "alert delivered");
            return;
        };
        if !error.is_temporary() || begin.elapsed() >= GIVE_UP {
            tracing::warn!(title, attempt, %error, "an alert is given up");
            return;
        }
        if attempt == 1 {
            tracing::info!(title, %error, "an alert did not arrive; trying again");
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

    /// A receiver that answers with these statuses, then with 204, and notes what it is sent.
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
    async fn messages_arrive_in_order_and_are_repeated_until_taken() {
        assert_eq!(send(&[503, 429], &["one", "two"]).await, ["one: test", "one: test", "one: test", "two: test"]);
    }

    #[tokio::test]
    async fn what_is_refused_is_not_repeated() {
        assert_eq!(send(&[404, 301], &["one", "two", "three"]).await, ["one: test", "two: test", "three: test"]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_newest_and_holds_nobody_up() {
        let (url, seen) = receiver(&[]).await;
        let sender = Sender::start(Webhook::new(url, Format::Plain).unwrap());
        // The test's own thread has not yet let the task run.
        for number in 0..MAX_WAITING + 10 {
            sender.send(Message::test(&number.to_string(), SystemTime::now()));
        }
        sender.finish(Duration::from_secs(20)).await;
        assert_eq!(seen.lock().unwrap().len(), MAX_WAITING);
    }
}
