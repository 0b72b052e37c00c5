//! Which endpoints there are. Clients may use any id, so that those that are no longer used make room.

use std::collections::HashMap;
use std::sync::Arc;

use super::endpoint::Endpoint;
use crate::store::backing::{Backing, Restored};
use crate::store::clock::Clock;
use crate::store::error::StoreError;
use crate::store::setup::Setup;
use crate::store::wakers::Wakers;

/// Endpoint ids in use at once.
const MAX_ENDPOINTS: usize = 1000;

/// The endpoints by their ids.
pub(super) struct Endpoints<B: Backing> {
    by_name: HashMap<String, Known<B>>,
    /// Endpoints created so far.
    created: u64,
}

struct Known<B: Backing> {
    endpoint: Arc<Endpoint<B>>,
    /// Order of creation.
    number: u64,
}

impl<B: Backing> Endpoints<B> {
    /// Those that a backing has kept, and those that are configured.
    pub(super) fn open(setup: &Setup, clock: Clock, backing: &Arc<B>, mut restored: Vec<Restored<B::Content>>) -> Self {
        restored.sort_unstable_by_key(|restored| restored.endpoint);
        let mut endpoints = Self { by_name: HashMap::new(), created: 0 };
        for Restored { endpoint: key, name, queue } in restored {
            let wakers = Wakers::new(&name, setup.webhooks.clone());
            endpoints.insert(&name, Endpoint::start(key, queue, clock, backing, wakers));
        }
        for name in &setup.endpoints {
            if !endpoints.by_name.contains_key(name) {
                endpoints.create(name, setup, clock, backing);
            }
        }
        endpoints
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Endpoint<B>>> {
        self.by_name.get(name).map(|known| Arc::clone(&known.endpoint))
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.by_name.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The endpoint, created on first use.
    pub(super) fn get_or_create(
        &mut self,
        name: &str,
        setup: &Setup,
        clock: Clock,
        backing: &Arc<B>,
    ) -> Result<Arc<Endpoint<B>>, StoreError> {
        if let Some(endpoint) = self.get(name) {
            return Ok(endpoint);
        }
        backing.ready()?;
        if self.by_name.len() >= MAX_ENDPOINTS && !self.make_room(setup, backing) {
            return Err(StoreError::TooManyEndpoints);
        }
        Ok(self.create(name, setup, clock, backing))
    }

    fn create(&mut self, name: &str, setup: &Setup, clock: Clock, backing: &Arc<B>) -> Arc<Endpoint<B>> {
        // The lowest that is free: a file has room for fewer keys than endpoints may come and go.
        let mut used: Vec<_> = self.by_name.values().map(|known| known.endpoint.key).collect();
        used.sort_unstable();
        let key = used
            .iter()
            .zip(1..)
            .find(|(used, free)| *used != free)
            .map_or_else(|| used.last().map_or(1, |last| last + 1), |(_, free)| free);
        backing.add_endpoint(key, name);
        let wakers = Wakers::new(name, setup.webhooks.clone());
        let endpoint = Endpoint::start(key, backing.queue(setup.limits_of(name)), clock, backing, wakers);
        self.insert(name, Arc::clone(&endpoint));
        endpoint
    }

    fn insert(&mut self, name: &str, endpoint: Arc<Endpoint<B>>) {
        self.created += 1;
        self.by_name.insert(name.to_owned(), Known { endpoint, number: self.created });
    }

    /// Forgets the oldest endpoint that has neither jobs nor workers and is not configured.
    fn make_room(&mut self, setup: &Setup, backing: &Arc<B>) -> bool {
        let is_unused = |name: &String, known: &Known<B>| {
            // A request that holds it may be about to submit a job. No other can get it meanwhile: the table is locked.
            Arc::strong_count(&known.endpoint) == 1
                && !setup.endpoints.contains(name)
                && known.endpoint.with(|queue, _| queue.is_unused()).0
        };
        let mut by_age: Vec<_> = self.by_name.iter().map(|(name, known)| (known.number, name)).collect();
        by_age.sort_unstable();
        let unused =
            by_age.into_iter().find(|(_, name)| self.by_name.get(*name).is_some_and(|known| is_unused(name, known)));
        let Some(name) = unused.map(|(_, name)| name.clone()) else { return false };
        if let Some(known) = self.by_name.remove(&name) {
            backing.remove_endpoint(known.endpoint.key);
        }
        true
    }
}
