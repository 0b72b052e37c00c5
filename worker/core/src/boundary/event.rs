//! Everything that can happen to a worker. Each input of the program becomes one of these.

#![expect(missing_docs, reason = "a field that is named after what it holds needs no sentence")]

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::ToSupervisor;

use super::gpu_slowdown::GpuSlowdown;
use super::ids::{Incarnation, JobId, ProcessId};

/// One input of the state machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// The poll in flight has ended.
    Poll(PollAnswer),
    /// The next poll need not wait any longer after one that failed: the queue answers again, or it is time to try.
    PollAgain,
    /// The queue wants these jobs stopped, because clients have cancelled them.
    Stop(Vec<JobId>),
    /// Something happened to a handler process.
    Process {
        id: ProcessId,
        /// The incarnation of it.
        incarnation: Incarnation,
        /// What happened.
        event: ProcessEvent,
    },
    /// The outbox has made progress.
    Delivery(DeliveryEvent),
    /// These GPUs, and no others, are slowed down now.
    GpuSlowdowns(Vec<GpuSlowdown>),
    /// Take no more jobs, finish those that run, exit.
    Drain(DrainCause),
    /// A second signal during a drain: exit without waiting for jobs.
    Abort,
    /// The deadline announced by [`Worker::next_deadline`](crate::Worker::next_deadline) has passed.
    Timer,
}

/// How a poll ended.
#[derive(Clone, Debug)]
pub enum PollAnswer {
    /// Jobs, at least one.
    Jobs(Vec<TakenJob>),
    /// No job. The queue has held the request long enough, so the next poll may follow at once.
    Empty,
    /// The queue answered 429.
    RateLimited {
        /// Time until the next poll may start.
        retry_after: Duration,
    },
    /// The queue could not be reached or answered with an error.
    Failed {
        /// Time until the next poll may start.
        retry_after: Duration,
        /// What went wrong, with the fix.
        reason: String,
    },
    /// The poll was given up on request; no job was taken.
    Aborted,
}

impl PollAnswer {
    /// All words that [`PollAnswer::outcome`] returns.
    pub const OUTCOMES: [&str; 5] = ["jobs", "empty", "rate_limited", "failed", "aborted"];

    /// The word used in `/health` and as a metric label.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Jobs(_) => "jobs",
            Self::Empty => "empty",
            Self::RateLimited { .. } => "rate_limited",
            Self::Failed { .. } => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A job as the queue handed it out.
#[derive(Clone, Debug)]
pub struct TakenJob {
    /// The queue's id of it.
    pub id: JobId,
    /// The job object exactly as received, or the reason why it cannot be run although its id is known.
    pub body: Result<Bytes, String>,
    /// The job's own execution timeout, if it carries one.
    pub timeout: Option<Duration>,
    /// W3C trace context, if it carries one.
    pub traceparent: Option<String>,
    /// The tenant, if a tenant field is configured and the job has it. For metrics only.
    pub tenant: Option<String>,
    /// The batch that it belongs to, if it names one.
    pub batch: Option<String>,
    /// How long it has waited in the queue, if the job says so.
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
        /// Process id of the operating system.
        pid: u32,
    },
    /// It could not be started.
    SpawnFailed {
        /// One sentence that names the fix.
        reason: String,
        /// Trying again cannot help: the file is missing or not executable.
        permanent: bool,
    },
    /// It sent a message.
    Message { message: ToSupervisor, payload: Bytes },
    /// It sent a message whose payload is over the limit; the payload was skipped.
    Oversize {
        message: ToSupervisor,
        /// Announced size of the payload, in bytes.
        payload_len: usize,
    },
    /// It violated the protocol.
    BadFrame {
        /// What is wrong.
        reason: String,
    },
    /// Its memory was measured.
    Memory {
        /// Host memory that it holds, in bytes.
        host_bytes: u64,
    },
    /// It has exited and was reaped, and everything that it wrote has been read.
    Exited(Exit),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code or signal.
    pub status: ExitReason,
    /// The kernel's out-of-memory killer was active in this container meanwhile.
    pub host_oom: bool,
    /// The last lines that it wrote to stderr, oldest first.
    pub last_lines: Vec<String>,
}

/// Exit code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It exited by itself with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The operating system did not report it.
    Unknown,
}

impl ExitReason {
    /// Whether it was asked to end from outside: SIGHUP, SIGINT, SIGQUIT or SIGTERM, which go to every process of a service
    /// at once in some environments. Shells and other wrappers report such a signal as an exit code of 128 plus its number.
    pub fn is_end_signal(self) -> bool {
        matches!(self, Self::Signal(1 | 2 | 3 | 15) | Self::Code(129 | 130 | 131 | 143))
    }
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

/// Names of the Linux signals that end handlers in practice; the number for all others.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
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
    /// A chunk was posted, or was given up.
    Chunk {
        job: JobId,
        /// The attempt that emitted it.
        attempt: u32,
        /// Its sequence number.
        seq: u64,
    },
    /// The final result was accepted, or refused for good.
    Final {
        job: JobId,
        /// `true` when the queue has it.
        accepted: bool,
    },
    /// The outbox is full: over its limit, or unable to keep results safe (`true`), or that is over (`false`).
    Full(bool),
    /// Many results wait for their turn while others are posted (`true`), or few do again (`false`).
    Behind(bool),
    /// An earlier run left the results of these jobs; the outbox is about to deliver them. Sent once, before anything else.
    Undelivered(Vec<JobId>),
}

/// Why the worker shuts down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainCause {
    /// SIGTERM, SIGINT, SIGHUP, SIGQUIT or the end of a test run.
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
