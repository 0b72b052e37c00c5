//! Receivers, and how many deliveries each may have in flight.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use reqwest::Url;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Tries in flight at once to one receiver that accepts them.
const MAX_PLACES: usize = 8;

/// Tries in flight at once to all receivers that have accepted the last ones, and to all others. Apart, so that receivers that do not
/// answer never use up the places of those that do.
const PROVEN_PLACES: usize = 64;
const UNPROVEN_PLACES: usize = 64;

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
    places: Semaphore,
    size: Mutex<usize>,
}

impl Origin {
    fn new(name: String) -> Self {
        Self { name, places: Semaphore::new(1), size: Mutex::new(1) }
    }

    fn is_proven(&self) -> bool {
        *self.size.lock() > 1
    }
}

/// Places for deliveries in flight.
#[derive(Debug)]
pub(super) struct Places {
    proven: Semaphore,
    unproven: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self { proven: Semaphore::new(PROVEN_PLACES), unproven: Semaphore::new(UNPROVEN_PLACES) }
    }
}

impl Places {
    /// Waits for a place. That of the receiver comes first: whoever waits for it must not occupy a place of the others.
    pub(super) async fn enter<'a>(&'a self, origin: &'a Origin) -> Option<Place<'a>> {
        let own = origin.places.acquire().await.ok()?;
        let lane = if origin.is_proven() { &self.proven } else { &self.unproven };
        let shared = lane.acquire().await.ok()?;
        Some(Place { origin, own, _shared: shared })
    }
}

/// A delivery in flight.
#[derive(Debug)]
pub(super) struct Place<'a> {
    origin: &'a Origin,
    own: SemaphorePermit<'a>,
    _shared: SemaphorePermit<'a>,
}

impl Place<'_> {
    /// Leaves, and notes whether the receiver has accepted what was sent.
    pub(super) fn leave(self, accepted: bool) {
        let mut size = self.origin.size.lock();
        if accepted && *size < MAX_PLACES {
            *size += 1;
            self.origin.places.add_permits(1);
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

    fn enter<'a>(places: &'a Places, origin: &'a Origin) -> Option<Place<'a>> {
        places.enter(origin).now_or_never().flatten()
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
        let (places, origin) = (Places::default(), Origin::new("o".into()));
        let only = enter(&places, &origin).unwrap();
        assert!(enter(&places, &origin).is_none(), "one at first");
        only.leave(true);
        for _ in 0..20 {
            enter(&places, &origin).unwrap().leave(true);
        }
        let held: Vec<_> = std::iter::from_fn(|| enter(&places, &origin)).collect();
        assert_eq!(held.len(), MAX_PLACES);
        held.into_iter().for_each(|place| place.leave(false));
        enter(&places, &origin).unwrap().leave(false);
        let held: Vec<_> = std::iter::from_fn(|| enter(&places, &origin)).collect();
        assert_eq!(held.len(), 1, "one is left to find out when it is back");
    }

    #[test]
    fn receivers_that_do_not_answer_leave_the_places_of_others_alone() {
        let places = Places::default();
        let good = Origin::new("good".into());
        enter(&places, &good).unwrap().leave(true);
        let dead: Vec<_> = (0..1000).map(|number| Origin::new(number.to_string())).collect();
        let held: Vec<_> = dead.iter().filter_map(|origin| enter(&places, origin)).collect();
        assert_eq!(held.len(), UNPROVEN_PLACES);
        assert!(enter(&places, &good).is_some());
    }
}
