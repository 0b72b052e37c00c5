//! Waiting, at the start, for a database that cannot be used yet.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::database_error::DatabaseError;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a start waits for its database. A database that is down, starts or fails over ends by itself; a mistake does not.
pub(super) struct Patience {
    limit: Duration,
    deadline: Instant,
    /// What was wrong at the last try.
    wrong: Option<String>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, deadline: Instant::now() + limit, wrong: None }
    }

    /// Waits until it is time for the next try; returns the error when there is none. One line in the log for each change of what is
    /// wrong.
    pub(super) async fn pause(&mut self, error: DatabaseError) -> Result<(), DatabaseError> {
        let next = Instant::now() + PAUSE;
        if !error.may_pass() || next > self.deadline {
            return Err(error);
        }
        let text = error.to_string();
        if self.wrong.as_ref() != Some(&text) {
            let limit = humantime::format_duration(self.limit);
            tracing::warn!(error = text, "The database cannot be used yet. It is tried again for {limit}.");
            self.wrong = Some(text);
        }
        sleep_until(next).await;
        Ok(())
    }

    /// The wait is over.
    pub(super) fn end(self) {
        if self.wrong.is_some() {
            tracing::info!("The database can be used.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds it is waited with this error before each try.
    async fn waited(error: impl Fn() -> DatabaseError, tries: usize) -> u64 {
        let (begin, mut patience) = (Instant::now(), Patience::new(Duration::from_secs(60)));
        for _ in 0..tries {
            if patience.pause(error()).await.is_err() {
                break;
            }
        }
        begin.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_a_mistake_is_not() {
        let down = || DatabaseError::Unreachable("db".to_owned(), "refused".to_owned());
        assert_eq!(waited(down, 10).await, 10);
        assert_eq!(waited(down, 1000).await, 60);
        let wrong = || DatabaseError::Password("jobs".to_owned(), "refused".to_owned());
        assert_eq!(waited(wrong, 1000).await, 0);
    }
}
