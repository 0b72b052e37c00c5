//! What handler processes have started, and what of it outlives them.
//!
//! A descendant in a session of its own gets no signal that goes to the group of its handler, and it may hold GPU memory. The
//! worker is therefore a subreaper: when the parent of such a process exits, the kernel makes it a child of the worker, where
//! it is found, killed and reaped. A handler process and everything it starts carry the path of a folder in their environment, so
//! that the descendants of another handler process that still runs are left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use parking_lot::{RwLock, RwLockWriteGuard};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, set_child_subreaper, waitid};
use tokio::signal::unix::{SignalKind, signal};

use super::limits::{KILL_PAUSE, REAP_INTERVAL};
use super::proc_table::{ProcTable, has_children, has_path_in_environment};

/// The variable with the folder of a handler process. The SDK keeps the temporary folders of jobs in it.
pub(super) const FOLDER_VARIABLE: &str = "RUNPOD_HANDLER_TEMP_DIR";

/// The handler processes of this program that are not reaped yet, with their folders. Any other child is an orphan.
static LEADERS: RwLock<BTreeMap<i32, Option<PathBuf>>> = RwLock::new(BTreeMap::new());

/// Whether every orphan descends from a handler process, even one that has cleared its environment. That is not so for the first
/// process of a container, which gets the orphans of all others, and for one that had children before it became the worker.
static EVERY_ORPHAN_IS_OURS: AtomicBool = AtomicBool::new(false);

/// Makes the worker the new parent of orphans. Without it, they are found only as long as their parents run.
pub(super) fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let is_alone = own_pid() != 1 && !has_children(own_pid());
        EVERY_ORPHAN_IS_OURS.store(is_alone, Ordering::Relaxed);
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            tracing::warn!(%error, "The worker cannot adopt orphans: processes that a handler leaves behind may live on.");
        }
    });
}

/// A start of a handler process that is under way. While it lasts, no child is taken for an orphan.
pub(super) struct Start(RwLockWriteGuard<'static, BTreeMap<i32, Option<PathBuf>>>);

impl Start {
    pub(super) fn begin() -> Self {
        Self(LEADERS.write())
    }

    /// The process runs.
    pub(super) fn started(mut self, leader: Pid, folder: Option<PathBuf>) {
        self.0.insert(leader.as_raw_nonzero().get(), folder);
    }
}

/// Reaps a handler process that has exited. Afterwards its number may belong to another process, so both happen under the lock.
pub(super) fn forget<T>(leader: Pid, reap: impl FnOnce() -> T) -> T {
    let mut leaders = LEADERS.write();
    let reaped = reap();
    leaders.remove(&leader.as_raw_nonzero().get());
    reaped
}

/// Kills all descendants of handler processes that end, orphans included, again and again until none is left. The handler
/// processes themselves are waited for, not killed. Blocks.
///
/// Returns how many are left after `limit`: a process inside the kernel may take longer to exit.
pub(super) fn kill(leaders: &[Pid], limit: Duration) -> usize {
    let leaders: Vec<i32> = leaders.iter().map(|leader| leader.as_raw_nonzero().get()).collect();
    let begin = Instant::now();
    loop {
        let left = {
            // Held, so that no process is started between the look and the kill.
            let known = LEADERS.read();
            let table = ProcTable::read();
            reap(&table, &known);
            let left = find(&table, &known, &leaders);
            left.iter().filter(|pid| !leaders.contains(pid)).for_each(|pid| sigkill(*pid));
            left.len()
        };
        if left == 0 || begin.elapsed() >= limit {
            return left;
        }
        sleep(KILL_PAUSE);
    }
}

/// What is to be killed when these handler processes end.
fn find(table: &ProcTable, known: &BTreeMap<i32, Option<PathBuf>>, ending: &[i32]) -> Vec<i32> {
    let folders = |is_ending: bool| {
        let leaders = known.iter().filter(move |(pid, _)| ending.contains(pid) == is_ending);
        leaders.filter_map(|(_, folder)| folder.as_deref()).collect::<Vec<&Path>>()
    };
    let (own, others) = (folders(true), folders(false));
    let names =
        |pid, folders: &[&Path]| has_path_in_environment(pid, FOLDER_VARIABLE, |folder| folders.contains(&folder));
    let every_orphan_is_ours = EVERY_ORPHAN_IS_OURS.load(Ordering::Relaxed);
    let is_orphan =
        |pid: i32| !known.contains_key(&pid) && (names(pid, &own) || every_orphan_is_ours && !names(pid, &others));
    let roots = table.children(own_pid()).filter(|pid| ending.contains(pid) || is_orphan(*pid));
    roots.flat_map(|root| table.tree(root)).collect()
}

/// Kills every process whose environment names a folder inside `run`, again and again until none is left. Blocks.
pub(super) fn kill_of_run(run: &Path, limit: Duration) -> usize {
    let begin = Instant::now();
    loop {
        let table = ProcTable::read();
        let is_inside = |folder: &Path| folder.starts_with(run);
        let left: Vec<i32> =
            table.running().filter(|pid| has_path_in_environment(*pid, FOLDER_VARIABLE, is_inside)).collect();
        left.iter().for_each(|pid| sigkill(*pid));
        if left.is_empty() || begin.elapsed() >= limit {
            return left.len();
        }
        sleep(KILL_PAUSE);
    }
}

/// Reaps orphans that exit by themselves, such as the middle process of a double fork. Ends only by being aborted.
pub(super) async fn reap_orphans() {
    let Ok(mut children) = signal(SignalKind::child()) else { return };
    while children.recv().await.is_some() {
        // One look for many exits.
        tokio::time::sleep(REAP_INTERVAL).await;
        let known = LEADERS.read();
        reap(&ProcTable::read(), &known);
    }
}

fn reap(table: &ProcTable, known: &BTreeMap<i32, Option<PathBuf>>) {
    let children = table.children(own_pid());
    for orphan in children.filter(|pid| !known.contains_key(pid) && !table.runs(*pid)).filter_map(Pid::from_raw) {
        // It has been reaped meanwhile, or cannot be.
        let _ = waitid(WaitId::Pid(orphan), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn sigkill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It has exited meanwhile, or may not be killed; then it is still there at the next look.
        let _ = kill_process(pid, Signal::KILL);
    }
}
