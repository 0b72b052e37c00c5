//! The texts of payloads that go out with the answers of a unit: one statement behind the commit, in the same round trip. Jobs that were
//! taken by many workers so cost one look for their inputs.

use std::collections::HashMap;

use deadpool_postgres::ClientWrapper;

use super::rows;
use super::work::Work;
use crate::store::payload::{Filed, Payload};

/// Bytes that one unit reads. Others wait for its end; larger payloads are read afterwards, by whoever wants them.
const MAX_BYTES: usize = 1 << 20;

/// Which texts are wanted, column by column.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    jobs: Vec<i64>,
    parts: Vec<i16>,
}

impl Wanted {
    /// Those of what was decided, as far as they fit.
    pub(super) fn of(works: &mut [Box<dyn Work>]) -> Self {
        let (mut wanted, mut left) = (Self::default(), MAX_BYTES);
        for payload in works.iter_mut().flat_map(|work| work.payloads()) {
            if let Filed::Stored { number, part, bytes } = payload
                && let Some(rest) = left.checked_sub(*bytes)
            {
                left = rest;
                wanted.jobs.push(rows::integer(*number));
                wanted.parts.push(rows::part(*part));
            }
        }
        wanted
    }

    /// Reads them. What cannot be read now is read again by whoever wants it: an error says nothing about the unit.
    pub(super) async fn read(&self, client: &ClientWrapper) -> Texts {
        if self.jobs.is_empty() {
            return Texts::default();
        }
        let Ok(statement) = client.prepare_cached(rows::PAYLOADS).await else { return Texts::default() };
        let found = client.query(&statement, &[&self.jobs, &self.parts]).await.unwrap_or_default();
        let text = |row: tokio_postgres::Row| Some(((row.get(0), row.get(1)), rows::payload(row.get(2)).ok()?));
        Texts(found.into_iter().filter_map(text).collect())
    }
}

/// Texts that were read, by job and part.
#[derive(Debug, Default)]
pub(super) struct Texts(HashMap<(i64, i16), Payload>);

impl Texts {
    /// Puts them into the answers.
    pub(super) fn put_into(&self, works: &mut [Box<dyn Work>]) {
        if self.0.is_empty() {
            return;
        }
        for payload in works.iter_mut().flat_map(|work| work.payloads()) {
            if let Filed::Stored { number, part, .. } = payload
                && let Some(text) = self.0.get(&(rows::integer(*number), rows::part(*part)))
            {
                *payload = Filed::Fresh(Payload::clone(text));
            }
        }
    }
}
