//! Clients that submit jobs all the time, and what they were told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::site::{Replica, http, submit};

const CLIENTS: u64 = 3;

/// A submission that was accepted.
pub(super) struct Accepted {
    pub(super) id: String,
    sent: Instant,
    acknowledged: Instant,
}

/// Some clients. Each submits a job after the other to whichever replica accepts them.
pub(super) struct Clients {
    tasks: JoinSet<Vec<Accepted>>,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Clients {
    pub(super) fn start(replicas: &[Replica; 2], diary: &Path, seed: u64) -> Self {
        let (stop, refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for at in 0..CLIENTS {
            let bases = replicas.each_ref().map(Replica::base);
            tasks.spawn(client(bases, diary.to_owned(), seed ^ at, Arc::clone(&stop), Arc::clone(&refused)));
        }
        Self { tasks, stop, refused }
    }

    /// Ends them; returns what was accepted, and how many submissions were refused or not answered.
    pub(super) async fn end(self) -> (Vec<Accepted>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let accepted = self.tasks.join_all().await.into_iter().flatten().collect();
        (accepted, self.refused.load(Ordering::Relaxed))
    }
}

async fn client(
    bases: [String; 2],
    diary: PathBuf,
    seed: u64,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
) -> Vec<Accepted> {
    let (http, mut rng, mut accepted) = (http(), Rng::with_seed(seed), Vec::new());
    let mut at = rng.usize(0..2);
    while !stop.load(Ordering::Relaxed) {
        let input = json!({"do": "diary", "file": diary, "ms": rng.u64(5..250)});
        let sent = Instant::now();
        match submit(&http, &bases[at], &input).await {
            Some(id) => accepted.push(Accepted { id, sent, acknowledged: Instant::now() }),
            None => {
                refused.fetch_add(1, Ordering::Relaxed);
                at = 1 - at;
            }
        }
        sleep(Duration::from_millis(rng.u64(50..300))).await;
    }
    accepted
}

/// Checks that every accepted job has completed, and that one that was sent after another one was acknowledged is behind it in the
/// queue. `numbers` are those of the completed jobs.
pub(super) fn check_order(accepted: &[Accepted], numbers: &BTreeMap<String, u64>) {
    assert!(!accepted.is_empty(), "nothing was accepted");
    let lost: Vec<&str> = accepted.iter().map(|one| &*one.id).filter(|id| !numbers.contains_key(*id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let mut by_number: Vec<&Accepted> = accepted.iter().collect();
    by_number.sort_by_key(|one| numbers[&one.id]);
    let mut sent_last: Option<&Accepted> = None;
    for one in by_number {
        if let Some(ahead) = sent_last {
            let is_in_order = ahead.sent <= one.acknowledged;
            assert!(is_in_order, "{} was sent after {} was acknowledged, and is ahead of it", ahead.id, one.id);
        }
        if sent_last.is_none_or(|ahead| ahead.sent < one.sent) {
            sent_last = Some(one);
        }
    }
}
