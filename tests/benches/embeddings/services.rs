//! The workers that are compared.

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use end_to_end_tests::{Daemon, free_port, repository, worker_env};

use crate::program;

/// Who answers.
pub(crate) enum Service {
    /// Our worker with so many processes.
    Ours { processes: usize },
    /// The official worker, which takes so many jobs at once.
    Official { concurrency: usize },
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours { processes } => write!(f, "ours, --processes {processes}"),
            Self::Official { concurrency } => write!(f, "runpod 1.12.0 on PyTorch, concurrency {concurrency}"),
        }
    }
}

impl Service {
    /// The id of its endpoint: each has a queue of its own.
    pub(crate) fn endpoint(&self) -> String {
        match self {
            Self::Ours { processes } => format!("ours-{processes}"),
            Self::Official { concurrency } => format!("official-{concurrency}"),
        }
    }

    /// Starts it; it ends when the value is dropped.
    pub(crate) fn start(&self, base: &str, threads: usize) -> Result<Daemon> {
        let model = repository().join(".models/all-MiniLM-L6-v2").to_string_lossy().into_owned();
        let mut env = worker_env(base, "worker-1");
        Ok(match self {
            Self::Ours { processes } => {
                env.push(("TEXT_EMBEDDINGS_MODEL_DIR".to_owned(), model));
                env.push(("RUNPOD_WORKER_LOG_LEVEL".to_owned(), "warn".to_owned()));
                let bind = format!("127.0.0.1:{}", free_port());
                let processes = processes.to_string();
                let handler = program("text-embeddings")?.to_string_lossy().into_owned();
                let run = ["run", "--http-bind", &bind, "--processes", &processes, "--", &handler].map(str::to_owned);
                Daemon::start("worker", &program("runpod-worker")?, &run, &env)
            }
            Self::Official { concurrency } => {
                let packages = repository().join(".venv/pytorch");
                ensure!(packages.join("torch").is_dir(), "PyTorch is not installed: run `make pytorch-worker`");
                for (name, value) in [
                    ("PYTHONPATH", packages.to_string_lossy().into_owned()),
                    ("OFFICIAL_MODEL", model),
                    ("OFFICIAL_THREADS", threads.to_string()),
                    ("OFFICIAL_CONCURRENCY", concurrency.to_string()),
                    ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true".to_owned()),
                    ("RUNPOD_SKIP_GPU_CHECK", "true".to_owned()),
                    ("RUNPOD_DEBUG_LEVEL", "ERROR".to_owned()),
                ] {
                    env.push((name.to_owned(), value));
                }
                let script = repository().join("tests/benches/embeddings/official.py").to_string_lossy().into_owned();
                Daemon::start("official.py", Path::new("python3"), &[script], &env)
            }
        })
    }
}
