//! All handler processes of a worker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::ToHandler;
use rustix::process::Pid;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;

use super::descendants;
use super::events::Events;
use super::group::Group;
use super::limits::{KILL_TIMEOUT, SEND_QUEUE, SEND_QUEUE_MAX, SEND_QUEUE_PER_SLOT};
use super::link::Frame;
use super::run_folder::RunFolder;
use super::running_jobs::RunningJobs;
use super::spawn::HandlerCommand;
use super::supervision::Supervision;
use runpod_worker_core::{Event, Incarnation, ProcessId};

/// Starts, feeds and kills handler processes. Dropping it kills them all and everything that they have started, and waits for that
/// for some seconds at most.
///
/// Every method returns at once. They need a tokio runtime around them.
#[derive(Debug)]
pub struct Processes {
    command: Arc<HandlerCommand>,
    process_env: BTreeMap<ProcessId, Vec<(OsString, OsString)>>,
    memory_interval: Option<Duration>,
    log_rate: u32,
    events: mpsc::Sender<Event>,
    handles: BTreeMap<ProcessId, Handle>,
    run_folder: Arc<OnceLock<Option<RunFolder>>>,
    reaper: JoinHandle<()>,
}

/// One incarnation, as long as it has not been replaced. Dropping it kills the group, if it still exists.
#[derive(Debug)]
struct Handle {
    frames: mpsc::Sender<Frame>,
    room: Room,
    group: Arc<Group>,
    jobs: RunningJobs,
}

/// How many messages may wait for a process. It follows what the process was asked to hold: a full queue shows that the process
/// does not read, and never that it has many slots.
#[derive(Debug, Default)]
struct Room {
    slots: usize,
    chunk_window: usize,
}

impl Room {
    /// Makes room for what a message allows the process to hold.
    fn follow(&mut self, message: &ToHandler) {
        match message {
            ToHandler::Load { slots, chunk_window, .. } => {
                self.slots = self.slots.max(*slots as usize);
                self.chunk_window = *chunk_window as usize;
            }
            // A handler that runs batches has more slots than models.
            ToHandler::Run { slot, .. } => self.slots = self.slots.max(*slot as usize + 1),
            _ => {}
        }
    }

    fn messages(&self) -> usize {
        SEND_QUEUE + self.slots * (SEND_QUEUE_PER_SLOT + self.chunk_window)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.reaper.abort();
        let handles = std::mem::take(&mut self.handles);
        let leaders: Vec<Pid> = handles.values().filter_map(|handle| handle.group.leader()).collect();
        drop(handles);
        if !leaders.is_empty() {
            descendants::kill(&leaders, KILL_TIMEOUT);
        }
        if let Some(Some(folder)) = self.run_folder.get() {
            folder.remove();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.group.kill();
    }
}

impl Processes {
    /// No process yet. What happens to them is sent to `events`.
    pub fn new(command: HandlerCommand, events: mpsc::Sender<Event>) -> Self {
        descendants::adopt_orphans();
        Self {
            command: Arc::new(command),
            process_env: BTreeMap::new(),
            memory_interval: None,
            log_rate: 0,
            events,
            handles: BTreeMap::new(),
            run_folder: Arc::default(),
            reaper: tokio::spawn(descendants::reap_orphans()),
        }
    }

    /// Adds environment variables for one process, such as `CUDA_VISIBLE_DEVICES`. They win over those of the command.
    #[must_use]
    pub fn with_process_env(mut self, id: ProcessId, env: Vec<(OsString, OsString)>) -> Self {
        self.process_env.insert(id, env);
        self
    }

    /// Looks at the host memory of every process this often, and says what it finds with `ProcessEvent::Memory`.
    #[must_use]
    pub fn watching_memory(mut self, interval: Option<Duration>) -> Self {
        self.memory_interval = interval;
        self
    }

    /// Logs at most this many lines a second of stdout and of stderr of each process; 0, as it is at first, for all.
    #[must_use]
    pub fn with_log_rate(mut self, rate: u32) -> Self {
        self.log_rate = rate;
        self
    }

    /// Starts a process. Answered by `ProcessEvent::Spawned` or `ProcessEvent::SpawnFailed`; after `Spawned`, the last
    /// event of the incarnation is `ProcessEvent::Exited`. An earlier incarnation that is still there is killed.
    pub fn spawn(&mut self, id: ProcessId, incarnation: Incarnation) {
        let mut command = Arc::clone(&self.command);
        if let Some(env) = self.process_env.get(&id) {
            Arc::make_mut(&mut command).env.extend(env.iter().cloned());
        }
        let (sender, frames) = mpsc::channel(SEND_QUEUE_MAX);
        let (group, jobs) = (Arc::new(Group::default()), RunningJobs::default());
        let events = Events { id, incarnation, queue: self.events.clone() };
        let supervision = Supervision {
            command,
            events,
            frames,
            group: Arc::clone(&group),
            jobs: jobs.clone(),
            run_folder: Arc::clone(&self.run_folder),
            memory_interval: self.memory_interval,
            log_rate: self.log_rate,
        };
        self.handles.insert(id, Handle { frames: sender, room: Room::default(), group, jobs });
        tokio::spawn(supervision.run());
    }

    /// Queues a message for a process. A process that has exited gets nothing. A message that cannot be queued or encoded
    /// would leave its job unanswered for ever, so the process is killed instead and its exit settles the job; payloads
    /// over [`MAX_PAYLOAD_LEN`](runpod_handler_protocol::MAX_PAYLOAD_LEN) must therefore be refused before they come here.
    pub fn send(&mut self, id: ProcessId, message: &ToHandler, payload: Bytes) {
        let Some(handle) = self.handles.get_mut(&id) else { return };
        let frame = match Frame::new(message, payload) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(process = id.0, %error, "A message cannot be sent to the handler process. Killing it.");
                handle.group.kill();
                return;
            }
        };
        handle.jobs.sending(message);
        handle.room.follow(message);
        let waiting = handle.frames.max_capacity() - handle.frames.capacity();
        let full = match handle.frames.try_send(frame) {
            Ok(()) => waiting >= handle.room.messages(),
            // The process is exiting, and `Exited` follows.
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => true,
        };
        if full {
            tracing::error!(process = id.0, waiting, "The handler process does not read its messages. Killing it.");
            handle.group.kill();
        }
    }

    /// Kills a process and everything in its process group, at once.
    pub fn kill(&mut self, id: ProcessId) {
        if let Some(handle) = self.handles.get(&id) {
            handle.group.kill();
        }
    }
}
