//! The programs that are measured, each on its own line of the queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use end_to_end_tests::{Daemon, free_port, repository, worker_env};

use crate::bare_loop;
use crate::line::Line;
use crate::proc;
use crate::queue::Queue;

/// Version of the official worker, as `make python-client` installs it.
pub(crate) const OFFICIAL: &str = "1.12.0";

/// What kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Our worker with a handler of this many slots.
    Worker(u32),
    /// The same without a log.
    Quiet(u32),
    /// The bare loop, which takes this many jobs at the same time.
    Bare(u32),
    /// The official worker with this concurrency.
    Official(u32),
}

impl Kind {
    /// The name of its line.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Worker(jobs) => format!("worker-{jobs}"),
            Self::Quiet(jobs) => format!("quiet-{jobs}"),
            Self::Bare(jobs) => format!("bare-{jobs}"),
            Self::Official(jobs) => format!("official-{jobs}"),
        }
    }
}

/// What a program does with its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Returns the input.
    Echo,
    /// Streams as many items as the input says.
    Stream,
    /// As the job says; only our worker.
    Puppet,
}

/// A running program.
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) line: Arc<Line>,
    daemon: Daemon,
    started: Instant,
}

impl Subject {
    /// Starts a program. Its jobs are `job`, of which there are none yet.
    pub(crate) fn start(queue: &Queue, kind: Kind, work: Work, job: &str) -> Result<Self> {
        let (line, base) = queue.line(&kind.name())?;
        line.set_job(job);
        line.supply(0);
        line.forget_polls();
        let mut env = worker_env(&base, &kind.name());
        // As the platform sets it.
        env.push(("RUNPOD_PING_INTERVAL".to_owned(), "10000".to_owned()));
        let (program, args) = match kind {
            Kind::Worker(slots) | Kind::Quiet(slots) => {
                if matches!(kind, Kind::Quiet(_)) {
                    env.push(("RUNPOD_WORKER_LOG_LEVEL".to_owned(), "off".to_owned()));
                }
                let handler = if work == Work::Echo { "echo" } else { "puppet-handler" };
                let http = format!("127.0.0.1:{}", free_port());
                let handler = built(handler)?.to_string_lossy().into_owned();
                let args = [
                    "run",
                    "--slots",
                    &slots.to_string(),
                    "--cancel-grace",
                    "100ms",
                    "--http-bind",
                    &http,
                    "--",
                    &handler,
                ];
                (built("runpod-worker")?, args.map(str::to_owned).to_vec())
            }
            Kind::Bare(batch) => (std::env::current_exe()?, vec![bare_loop::FLAG.to_owned(), base, batch.to_string()]),
            Kind::Official(concurrency) => {
                let handler = if work == Work::Stream { "stream" } else { "echo" };
                for (name, value) in [
                    ("PYTHONPATH", official().to_string_lossy().into_owned()),
                    ("BENCH_CONCURRENCY", concurrency.to_string()),
                    ("BENCH_HANDLER", handler.to_owned()),
                    ("RUNPOD_SKIP_GPU_CHECK", "true".to_owned()),
                ] {
                    env.push((name.to_owned(), value));
                }
                let script = repository().join("tests/benches/runtime/official.py");
                (PathBuf::from("python3"), vec![script.to_string_lossy().into_owned()])
            }
        };
        let started = Instant::now();
        let daemon = Daemon::start(&kind.name(), &program, &args, &env);
        Ok(Self { kind, line, daemon, started })
    }

    /// Waits for its first poll; returns the time from its start.
    pub(crate) async fn ready(&self) -> Result<Duration> {
        let polled =
            self.line.first_poll().await.with_context(|| format!("{}:\n{}", self.kind.name(), self.daemon.log()))?;
        Ok(polled.duration_since(self.started))
    }

    /// Its first process.
    pub(crate) fn root(&self) -> i32 {
        self.daemon.pid().as_raw_nonzero().get()
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<i32> {
        proc::family(self.root())
    }
}

/// Whether the official worker is installed.
pub(crate) fn has_official() -> bool {
    official().join("runpod").is_dir()
}

fn official() -> PathBuf {
    repository().join(".venv/runpod")
}

fn built(name: &str) -> Result<PathBuf> {
    // target/release/deps/<bench> → target/release
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).unwrap_or(Path::new("/")).join(name);
    if !path.is_file() {
        bail!("{} is missing: run `make bench`, which builds it", path.display());
    }
    Ok(path)
}
