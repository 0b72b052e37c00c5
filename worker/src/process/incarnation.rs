//! The life of one handler process, from its start to the report of its exit.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::exit;
use super::group::Group;
use super::handler_log::{LastLines, Source, log_output};
use super::limits::END_OF_FILE_TIMEOUT;
use super::link::{self, Frame};
use super::resident_memory;
use super::running_jobs::RunningJobs;
use super::secret_inputs::SecretInputs;
use super::spawn::{HandlerCommand, SpawnError, Spawned, spawn};
use crate::sensors::host::Cgroup;
use runpod_worker_core::{Exit, ExitReason, ProcessEvent};

const SIGKILL: i32 = 9;

/// What an incarnation is started with.
#[derive(Debug)]
pub(super) struct Incarnation {
    pub(super) command: Arc<HandlerCommand>,
    pub(super) events: Events,
    pub(super) frames: mpsc::Receiver<Frame>,
    pub(super) group: Arc<Group>,
    pub(super) jobs: RunningJobs,
    pub(super) memory_interval: Option<Duration>,
    /// Lines a second of each stream; 0 for no limit.
    pub(super) log_rate: u32,
}

impl Incarnation {
    /// Starts the process and supervises it until it is reaped. The last event is `SpawnFailed` or `Gone`.
    pub(super) async fn run(self) {
        match self.start().await {
            Ok((spawned, cgroup, kills_before)) => self.supervise(spawned, cgroup, kills_before).await,
            Err((reason, permanent)) => self.events.send(ProcessEvent::SpawnFailed { reason, permanent }).await,
        }
    }

    async fn start(&self) -> Result<(Spawned, Cgroup, Option<u64>), (String, bool)> {
        let (command, group) = (Arc::clone(&self.command), Arc::clone(&self.group));
        let start = move || {
            let cgroup = Cgroup::own();
            let kills_before = cgroup.oom_kills();
            spawn(&command, &group).map(|spawned| (spawned, cgroup, kills_before))
        };
        match tokio::task::spawn_blocking(start).await {
            Ok(result) => result.map_err(|error: SpawnError| (error.to_string(), error.is_permanent())),
            Err(error) => Err((format!("the handler process could not be started: {error}"), false)),
        }
    }

    async fn supervise(self, spawned: Spawned, cgroup: Cgroup, kills_before: Option<u64>) {
        let Self { events, frames, group, jobs, memory_interval, log_rate, .. } = self;
        let Spawned { mut child, pid, link, stdout, stderr } = spawned;
        events.send(ProcessEvent::Spawned { pid: pid.as_raw_nonzero().get().cast_unsigned() }).await;

        let memory = memory_interval
            .map(|interval| tokio::spawn(resident_memory::watch(pid.as_raw_nonzero().get(), interval, events.clone())));
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
        read_to_end(&mut readers, &stop, &group).await;
        if let Some(writer) = writer {
            writer.abort();
        }
        group.forget();
        let status = exit::reason(child.wait().await);
        let host_oom = status == ExitReason::Signal(SIGKILL) && !killed_by_us && kills_after > kills_before;
        events.send(ProcessEvent::Exited(Exit { status, host_oom, last_lines: last_lines.take() })).await;
    }
}

/// Waits for end-of-file everywhere, then kills what is left of the group whether or not it held anything open: what
/// outlives its process would also keep its device memory.
async fn read_to_end(readers: &mut JoinSet<()>, stop: &CancellationToken, group: &Group) {
    let all_done = async |readers: &mut JoinSet<()>| while readers.join_next().await.is_some() {};
    let in_time = timeout(END_OF_FILE_TIMEOUT, all_done(readers)).await.is_ok();
    group.kill_leftovers();
    stop.cancel();
    if !in_time && timeout(END_OF_FILE_TIMEOUT, all_done(readers)).await.is_err() {
        readers.abort_all();
    }
}
