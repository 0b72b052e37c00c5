//! The life of one handler process, from its start to the report of its exit.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::descendants;
use super::events::Events;
use super::exit;
use super::group::Group;
use super::handler_log::{LastLines, Source, log_output};
use super::host_memory;
use super::limits::{END_OF_FILE_TIMEOUT, KILL_TIMEOUT, REMOVE_TIMEOUT};
use super::link::{self, Frame};
use super::run_folder::{self, RunFolder};
use super::running_jobs::RunningJobs;
use super::secret_inputs::SecretInputs;
use super::spawn::{HandlerCommand, SpawnError, Spawned, spawn};
use crate::sensors::host::Cgroup;
use runpod_worker_core::{Exit, ExitReason, ProcessEvent};

const SIGKILL: i32 = 9;

/// What one incarnation of a process is started with.
#[derive(Debug)]
pub(super) struct Supervision {
    pub(super) command: Arc<HandlerCommand>,
    pub(super) events: Events,
    pub(super) frames: mpsc::Receiver<Frame>,
    pub(super) group: Arc<Group>,
    pub(super) jobs: RunningJobs,
    /// Where temporary files go; made by the first process that starts.
    pub(super) run_folder: Arc<OnceLock<Option<RunFolder>>>,
    pub(super) memory_interval: Option<Duration>,
    /// Lines a second of each stream; 0 for no limit.
    pub(super) log_rate: u32,
}

impl Supervision {
    /// Starts the process and supervises it until it is reaped. The last event is `SpawnFailed` or `Gone`.
    pub(super) async fn run(self) {
        match self.start().await {
            Ok(started) => self.supervise(started).await,
            Err((reason, permanent)) => self.events.send(ProcessEvent::SpawnFailed { reason, permanent }).await,
        }
    }

    async fn start(&self) -> Result<Started, (String, bool)> {
        let (command, group, run_folder) =
            (Arc::clone(&self.command), Arc::clone(&self.group), Arc::clone(&self.run_folder));
        let Events { id, incarnation, .. } = self.events;
        let start = move || {
            let run_folder = run_folder.get_or_init(|| in_temporary_folder(RunFolder::create(&std::env::temp_dir())));
            let folder = run_folder.as_ref().and_then(|run| in_temporary_folder(run.for_process(id, incarnation)));
            let cgroup = Cgroup::own();
            let kills_before = cgroup.oom_kills();
            let spawned = spawn(&command, folder.as_deref(), &group);
            if let (Err(_), Some(folder)) = (&spawned, &folder) {
                run_folder::remove(folder);
            }
            spawned.map(|spawned| Started { spawned, folder, cgroup, kills_before })
        };
        match tokio::task::spawn_blocking(start).await {
            Ok(result) => result.map_err(|error: SpawnError| (error.to_string(), error.is_permanent())),
            Err(error) => Err((format!("the handler process could not be started: {error}"), false)),
        }
    }

    async fn supervise(self, started: Started) {
        let Self { events, frames, group, jobs, memory_interval, log_rate, .. } = self;
        let Started { spawned, folder, cgroup, kills_before } = started;
        let Spawned { mut child, pid, link, stdout, stderr } = spawned;
        events.send(ProcessEvent::Spawned { pid: pid.as_raw_nonzero().get().cast_unsigned() }).await;

        let memory = memory_interval
            .map(|interval| tokio::spawn(host_memory::watch(pid.as_raw_nonzero().get(), interval, events.clone())));
        let stop = CancellationToken::new();
        let last_lines = LastLines::default();
        let mut readers = JoinSet::new();
        let output = |name, last_lines| Source {
            name,
            process: events.process(),
            jobs: jobs.clone(),
            rate: log_rate,
            last_lines,
            stop: stop.clone(),
        };
        readers.spawn(log_output(stdout, output("stdout", None)));
        readers.spawn(log_output(stderr, output("stderr", Some(last_lines.clone()))));
        let mut writer = None;
        match UnixStream::from_std(link) {
            Ok(socket) => {
                let (read_half, write_half) = socket.into_split();
                let secrets = SecretInputs::default();
                readers.spawn(link::read(read_half, events.clone(), jobs, secrets.clone(), stop.clone()));
                writer = Some(tokio::spawn(link::write(write_half, frames, secrets, events.process())));
            }
            Err(error) => {
                events.send(ProcessEvent::BadFrame { reason: format!("no socket to the process: {error}") }).await;
                group.kill();
            }
        }

        if let Err(error) = exit::exited(pid).await {
            tracing::error!(process = events.process(), %error, "A handler process cannot be watched. Killing it.");
            group.kill();
        }
        if let Some(memory) = memory {
            memory.abort();
        }
        let killed_by_us = group.kill_requested();
        let kills_after = cgroup.oom_kills();
        read_to_end(&mut readers, &stop, &group, events.process()).await;
        if let Some(writer) = writer {
            writer.abort();
        }
        group.forget();
        let status = match descendants::forget(pid, || child.try_wait()) {
            Ok(Some(status)) => Ok(status),
            Ok(None) => child.wait().await,
            Err(error) => Err(error),
        };
        let status = exit::reason(status);
        if let Some(folder) = folder {
            // A large folder is removed in the background while the next process starts.
            let removed = tokio::task::spawn_blocking(move || run_folder::remove(&folder));
            let _ = timeout(REMOVE_TIMEOUT, removed).await;
        }
        let host_oom = status == ExitReason::Signal(SIGKILL) && !killed_by_us && kills_after > kills_before;
        events.send(ProcessEvent::Exited(Exit { status, host_oom, last_lines: last_lines.take() })).await;
    }
}

/// A handler process that has just been started.
struct Started {
    spawned: Spawned,
    /// Where its temporary files go.
    folder: Option<PathBuf>,
    cgroup: Cgroup,
    /// Out-of-memory kills in the container before it was started.
    kills_before: Option<u64>,
}

/// Logs why there is no folder for temporary files: jobs can do without.
fn in_temporary_folder<T>(made: io::Result<T>) -> Option<T> {
    if let Err(error) = &made {
        let folder = std::env::temp_dir();
        tracing::warn!(
            folder = %folder.display(), %error,
            "There is no temporary folder for the handler process: what a killed job leaves there is not removed."
        );
    }
    made.ok()
}

/// Waits for end-of-file everywhere, then kills all descendants whether or not they held anything open: what outlives its
/// process would also keep its device memory. After a kill there is nothing to wait for.
async fn read_to_end(readers: &mut JoinSet<()>, stop: &CancellationToken, group: &Group, process: usize) {
    let all_done = async |readers: &mut JoinSet<()>| while readers.join_next().await.is_some() {};
    if group.kill_requested() {
        kill_descendants(group, process).await;
    }
    let in_time = timeout(END_OF_FILE_TIMEOUT, all_done(readers)).await.is_ok();
    kill_descendants(group, process).await;
    stop.cancel();
    if !in_time && timeout(END_OF_FILE_TIMEOUT, all_done(readers)).await.is_err() {
        readers.abort_all();
    }
}

/// Kills everything that the handler process has started.
async fn kill_descendants(group: &Group, process: usize) {
    group.kill_leftovers();
    let Some(leader) = group.leader() else { return };
    let left = tokio::task::spawn_blocking(move || descendants::kill(&[leader], KILL_TIMEOUT)).await;
    if let Ok(left @ 1..) = left {
        tracing::error!(process, left, "Processes that the handler has started do not exit. They may hold GPU memory.");
    }
}
