//! Everything that can happen to a worker. Each input of the program becomes one of these.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::gpu_slowdown::GpuSlowdown;
use super::ids::{Epoch, JobId, ProcessId};
use bytes::Bytes;
use runpod_handler_protocol::ToSupervisor;

/// One input of the state machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// The poll in flight has ended.
    Poll(PollAnswer),
    /// The platform wants these jobs stopped.
    Stop(Vec<JobId>),
    /// Something happened to a handler process.
    Process {
        /// Which.
        id: ProcessId,
        /// Which incarnation.
        epoch: Epoch,
        /// What.
        event: ProcessEvent,
    },
    /// The outbox has made progress.
    Delivery(DeliveryEvent),
    /// These GPUs, and no others, are slowed down.
    GpuSlowdowns(Vec<GpuSlowdown>),
    /// Take no more jobs, finish what runs, exit.
    Drain(DrainCause),
    /// A second signal: stop waiting.
    Abort,
    /// The moment announced by `next_deadline` has come.
    Timer,
}

/// How a poll ended.
#[derive(Clone, Debug)]
pub enum PollAnswer {
    /// Jobs, at least one.
    Jobs(Vec<TakenJob>),
    /// No job: poll again at once, the queue held the request long enough.
    Empty,
    /// The queue asked for fewer requests (429).
    RateLimited {
        /// Earliest next poll.
        retry_after: Duration,
    },
    /// The queue could not be reached or answered with an error.
    Failed {
        /// Earliest next poll.
        retry_after: Duration,
    },
    /// The poll was given up on request; no job was taken.
    Aborted,
}

impl PollAnswer {
    /// The words of [`PollAnswer::outcome`].
    pub const OUTCOMES: [&str; 5] = ["jobs", "empty", "throttled", "failed", "aborted"];

    /// The word used in `/health` and as a metric label.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Jobs(_) => "jobs",
            Self::Empty => "empty",
            Self::RateLimited { .. } => "throttled",
            Self::Failed { .. } => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A job as the queue handed it out.
#[derive(Clone, Debug)]
pub struct TakenJob {
    /// Its id.
    pub id: JobId,
    /// The job object exactly as received, or why it cannot be run although its id is known.
    pub body: Result<Bytes, String>,
    /// The job's own execution timeout, if it carries one.
    pub timeout: Option<Duration>,
    /// W3C trace context, if it carries one.
    pub traceparent: Option<String>,
    /// On whose behalf it runs, if that was asked for and it says so. For metrics only.
    pub tenant: Option<String>,
    /// The batch that it belongs to, if it names one.
    pub batch: Option<String>,
    /// How long it has waited in the queue, if it tells.
    pub waited: Option<Duration>,
    /// How long the reply with it took to arrive, from its first byte.
    pub transfer: Duration,
}

impl TakenJob {
    /// A job that carries nothing but its body.
    pub fn new(id: JobId, body: Result<Bytes, String>) -> Self {
        Self {
            id,
            body,
            timeout: None,
            traceparent: None,
            tenant: None,
            batch: None,
            waited: None,
            transfer: Duration::ZERO,
        }
    }
}

/// What happened to a handler process.
#[derive(Clone, Debug)]
pub enum ProcessEvent {
    /// The operating system has started it.
    Spawned {
        /// Process id.
        pid: u32,
    },
    /// It could not be started.
    SpawnFailed {
        /// One sentence with the fix in it.
        reason: String,
        /// Trying again cannot help: the file is missing or not executable.
        permanent: bool,
    },
    /// It sent a message.
    Message {
        /// The message.
        message: ToSupervisor,
        /// Its payload.
        payload: Bytes,
    },
    /// It sent a message whose payload is over the limit; the payload was skipped.
    Oversize {
        /// The message.
        message: ToSupervisor,
        /// Announced size in bytes.
        payload_len: usize,
    },
    /// It sent something that is not a message.
    BadFrame {
        /// What is wrong with it.
        reason: String,
    },
    /// What it holds was looked at.
    Memory {
        /// Host memory held, in bytes.
        host_bytes: u64,
    },
    /// It is dead, reaped, and everything it wrote has been read.
    Exited(Exit),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code or signal.
    pub status: ExitReason,
    /// The kernel's out-of-memory killer struck inside this container meanwhile.
    pub host_oom: bool,
    /// The last lines it wrote to stderr, oldest first.
    pub last_lines: Vec<String>,
}

/// Exit code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It exited by itself.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The operating system did not say.
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{}", signal_name(*signal)),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// Linux signal names that a crashing handler meets; the number for all others.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        other => return format!("signal {other}"),
    };
    format!("signal {signal} ({name})")
}

/// Progress of the outbox.
#[derive(Clone, Debug)]
pub enum DeliveryEvent {
    /// A chunk has left the worker, or was given up.
    Chunk {
        /// Job.
        job: JobId,
        /// Attempt that emitted it.
        attempt: u32,
        /// Its sequence number.
        seq: u64,
    },
    /// The final result was accepted, or refused for good.
    Final {
        /// Job.
        job: JobId,
        /// The platform has it.
        accepted: bool,
    },
    /// The outbox holds more than it should or cannot keep it safe (`true`), or that is over.
    Pressure(bool),
    /// An earlier run has left the results of these jobs; the outbox is about to deliver them. Comes once, before anything
    /// else.
    Undelivered(Vec<JobId>),
}

/// Why the worker stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainCause {
    /// SIGTERM, SIGINT or the end of a test run.
    Signal,
    /// RunPod's `refresh_worker`: the container is to be replaced after a job.
    Refresh,
    /// The worker cannot do its work; it exits with status 1 so that it is replaced.
    Unhealthy {
        /// Short name of what failed, such as `crash_loop`.
        check: Cow<'static, str>,
        /// One sentence.
        reason: String,
    },
}
