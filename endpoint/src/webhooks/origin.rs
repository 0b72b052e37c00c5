//! Receivers, and how many deliveries each may have in flight.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use reqwest::Url;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Tries in flight at once to one receiver that accepts them.
const MAX_IN_FLIGHT: usize = 8;

/// Tries in flight at once to all receivers that have accepted the last ones. Counted apart from the others, so that receivers that do
/// not answer never use up the permits for those that do.
const MAX_PROVEN: usize = 64;
/// Tries in flight at once to all other receivers.
const MAX_UNPROVEN: usize = 64;

/// Receivers remembered before those without deliveries are forgotten.
const MAX_ORIGINS: usize = 1000;

/// Scheme, host and port of a webhook's URL, without the rest, which may hold secrets. Empty for a text that is no URL.
pub(crate) fn origin_name(url: &str) -> String {
    Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

/// One receiver: scheme, host and port of a URL. It begins with one delivery at a time. Each that it accepts makes room for one more,
/// each that fails takes one away.
#[derive(Debug)]
pub(super) struct Origin {
    /// For logs: it holds no secrets.
    pub(super) name: String,
    permits: Semaphore,
    /// How many permits there are.
    size: Mutex<usize>,
}

impl Origin {
    fn new(name: String) -> Self {
        Self { name, permits: Semaphore::new(1), size: Mutex::new(1) }
    }

    fn is_proven(&self) -> bool {
        *self.size.lock() > 1
    }
}

/// Permits for deliveries in flight.
#[derive(Debug)]
pub(super) struct Permits {
    proven: Semaphore,
    unproven: Semaphore,
}

impl Default for Permits {
    fn default() -> Self {
        Self { proven: Semaphore::new(MAX_PROVEN), unproven: Semaphore::new(MAX_UNPROVEN) }
    }
}

impl Permits {
    /// Waits for a permit. That of the receiver comes first: whoever waits for it must not hold a permit that others could use.
    pub(super) async fn acquire<'a>(&'a self, origin: &'a Origin) -> Option<Permit<'a>> {
        let own = origin.permits.acquire().await.ok()?;
        let all = if origin.is_proven() { &self.proven } else { &self.unproven };
        let shared = all.acquire().await.ok()?;
        Some(Permit { origin, own, _shared: shared })
    }
}

/// The permit of one delivery in flight.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    origin: &'a Origin,
    own: SemaphorePermit<'a>,
    _shared: SemaphorePermit<'a>,
}

impl Permit<'_> {
    /// Gives the permit back, and notes whether the receiver has accepted what was sent.
    pub(super) fn release(self, accepted: bool) {
        let mut size = self.origin.size.lock();
        if accepted && *size < MAX_IN_FLIGHT {
            *size += 1;
            self.origin.permits.add_permits(1);
        } else if !accepted && *size > 1 {
            *size -= 1;
            self.own.forget();
        }
    }
}

/// The receivers with deliveries.
#[derive(Debug, Default)]
pub(super) struct Origins(HashMap<String, Weak<Origin>>);

impl Origins {
    pub(super) fn of(&mut self, url: &str) -> Arc<Origin> {
        let name = origin_name(url);
        if let Some(origin) = self.0.get(&name).and_then(Weak::upgrade) {
            return origin;
        }
        if self.0.len() >= MAX_ORIGINS {
            self.0.retain(|_, origin| origin.strong_count() > 0);
        }
        let origin = Arc::new(Origin::new(name.clone()));
        self.0.insert(name, Arc::downgrade(&origin));
        origin
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn acquire<'a>(permits: &'a Permits, origin: &'a Origin) -> Option<Permit<'a>> {
        permits.acquire(origin).now_or_never().flatten()
    }

    #[test]
    fn a_receiver_is_an_origin_port_included() {
        let mut origins = Origins::default();
        let first = origins.of("http://example.org:8080/a?token=1");
        assert!(Arc::ptr_eq(&first, &origins.of("http://EXAMPLE.org:8080/b")));
        for other in ["http://example.org:8081/a", "https://example.org:8080/a", "http://example.com:8080/a"] {
            assert!(!Arc::ptr_eq(&first, &origins.of(other)), "{other}");
        }
        assert_eq!(first.name, "http://example.org:8080");
    }

    #[test]
    fn a_receiver_gets_more_at_once_as_it_accepts_and_less_as_it_fails() {
        let (permits, origin) = (Permits::default(), Origin::new("o".into()));
        let only = acquire(&permits, &origin).unwrap();
        assert!(acquire(&permits, &origin).is_none(), "one at first");
        only.release(true);
        for _ in 0..20 {
            acquire(&permits, &origin).unwrap().release(true);
        }
        let held: Vec<_> = std::iter::from_fn(|| acquire(&permits, &origin)).collect();
        assert_eq!(held.len(), MAX_IN_FLIGHT);
        held.into_iter().for_each(|place| place.release(false));
        acquire(&permits, &origin).unwrap().release(false);
        let held: Vec<_> = std::iter::from_fn(|| acquire(&permits, &origin)).collect();
        assert_eq!(held.len(), 1, "one is left to find out when it is back");
    }

    #[test]
    fn receivers_that_do_not_answer_leave_the_permits_of_others_alone() {
        let permits = Permits::default();
        let good = Origin::new("good".into());
        acquire(&permits, &good).unwrap().release(true);
        let dead: Vec<_> = (0..1000).map(|number| Origin::new(number.to_string())).collect();
        let held: Vec<_> = dead.iter().filter_map(|origin| acquire(&permits, origin)).collect();
        assert_eq!(held.len(), MAX_UNPROVEN);
        assert!(acquire(&permits, &good).is_some());
    }
}
