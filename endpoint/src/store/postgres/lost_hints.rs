//! Looks, once a second, for what waits here and is there already: the hint of another replica may be lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::rows;
use super::shared::Shared;
use crate::store::error::StoreError;
use crate::store::job::Position;

const WAITING: &str = "SELECT open.name, (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE endpoint = open.name AND waiting LIMIT polls) AS found) \
    FROM unnest($1::text[], $2::bigint[]) AS open(name, polls) JOIN endpoints ON endpoints.name = open.name AND NOT paused";
/// The first place at which an urgent job waits; where none does, the last one that was given. Beyond the places of low priority a new
/// urgent job would not be seen.
const FIRST: &str = "SELECT name, coalesce(place, (SELECT last_value FROM numbers)), coalesce(round, 0) \
    FROM unnest($1::text[]) AS open(name) LEFT JOIN LATERAL (SELECT round, place FROM jobs \
    WHERE endpoint = name AND waiting AND NOT low ORDER BY low, round, place LIMIT 1) AS waiting ON true";
const CHANGED: &str = "SELECT name, wanted FROM unnest($1::text[], $2::text[]) AS open(name, wanted) \
    LEFT JOIN jobs ON endpoint = name AND id = wanted \
    WHERE id IS NULL OR NOT (waiting OR holder IS NOT NULL) \
    OR coalesce((SELECT unread_bytes > 0 FROM streams WHERE job = number), false)";
const STOPPED: &str = "SELECT name, wanted FROM unnest($1::text[], $2::text[]) AS open(name, wanted) \
    JOIN workers ON endpoint = name AND id = wanted WHERE has_stops";

/// Wakes whoever waits for something that is there already.
pub(super) async fn look_for_lost_hints(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let locals: Vec<_> = shared.locals.lock().values().cloned().collect();
    let (mut names, mut polls) = (Vec::new(), Vec::new());
    let (mut readers, mut stops) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for local in &locals {
        let waiting = local.waiting_takes.load(Ordering::Relaxed);
        if waiting > 0 {
            names.push(&*local.name);
            polls.push(rows::count(waiting));
        }
        for (keys, open) in
            [(local.wakers.job_readers.keys(), &mut readers), (local.wakers.stop_polls.keys(), &mut stops)]
        {
            for key in keys {
                open.0.push(&*local.name);
                open.1.push(key.to_string());
            }
        }
        local.wakers.supervisors.wake_all();
    }
    if !names.is_empty() {
        // Before anybody is woken: a look begins at the floor.
        for row in shared.query(FIRST, &[&names]).await? {
            let Some(local) = shared.find(row.get(0)) else { continue };
            let (round, number) = (rows::natural(row.get(2)), rows::natural(row.get(1)));
            let first = Position { low_priority: false, round, number };
            local.floor.lock().note(Instant::now(), first);
        }
        for row in shared.query(WAITING, &[&names, &polls]).await? {
            let Some(local) = shared.find(row.get(0)) else { continue };
            for _ in 0..row.get::<_, i64>(1) {
                local.wakers.jobs_waiting.notify_one();
            }
        }
    }
    if !readers.0.is_empty() {
        for row in shared.query(CHANGED, &[&readers.0, &readers.1]).await? {
            if let Some(local) = shared.find(row.get(0)) {
                local.wakers.job_readers.wake(row.get(1));
            }
        }
    }
    if !stops.0.is_empty() {
        for row in shared.query(STOPPED, &[&stops.0, &stops.1]).await? {
            if let Some(local) = shared.find(row.get(0)) {
                local.wakers.stop_polls.wake(row.get(1));
            }
        }
    }
    Ok(())
}
