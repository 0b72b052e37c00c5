//! Settings of `runpod-worker dead-letters`.

use super::environment::Environment;
use super::identity::identity;
use super::queue::queue;
use super::settings::Settings;
use super::spool::{owner, spool};
use super::{ConfigErrors, RunArgs};
use crate::outbox::SpoolConfig;
use crate::queue::QueueConfig;

/// Where the dead letters are, and the queue that they can be sent to.
#[derive(Clone, Debug)]
pub struct DeadLetterConfig {
    /// Where results are kept.
    pub spool: SpoolConfig,
    /// The queue; `None` when `RUNPOD_WEBHOOK_GET_JOB` is not set.
    pub queue: Option<QueueConfig>,
}

impl DeadLetterConfig {
    /// Reads the settings as the worker does, without a handler. The flags win over the environment.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(folder: Option<&str>, worker: Option<&str>, env: &impl Environment) -> Result<Self, ConfigErrors> {
        let mut settings = Settings::new(env);
        let mut identity = identity(&mut settings);
        let args = RunArgs { spool_dir: folder.map(str::to_owned), ..RunArgs::default() };
        if let Some(worker) = worker {
            worker.clone_into(&mut identity.worker_id);
        }
        let mut spool = spool(&mut settings, &args, &identity);
        if let Some(worker) = worker {
            spool.owner = owner(worker);
        }
        let (queue, _) = queue(&mut settings, &identity);
        if settings.problems.is_empty() { Ok(Self { spool, queue }) } else { Err(ConfigErrors::new(settings.problems)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn load(pairs: &[(&str, &str)], folder: Option<&str>, worker: Option<&str>) -> Result<SpoolConfig, ConfigErrors> {
        let env: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        DeadLetterConfig::load(folder, worker, &env).map(|config| config.spool)
    }

    fn own(pairs: &[(&str, &str)]) -> String {
        load(pairs, None, None).unwrap().own_folder().unwrap().display().to_string()
    }

    #[test]
    fn the_folder_is_the_users_and_has_the_workers_name() {
        let id = ("RUNPOD_POD_ID", "w1");
        assert_eq!(own(&[id, ("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), "/s/runpod-worker/w1");
        assert_eq!(own(&[id, ("XDG_STATE_HOME", "s"), ("HOME", "/h")]), "/h/.local/state/runpod-worker/w1");
        assert_eq!(own(&[id, ("TMPDIR", "/t")]), "/t/runpod-worker/w1");
        assert_eq!(own(&[id]), "/tmp/runpod-worker/w1");
        assert_eq!(own(&[("RUNPOD_POD_ID", "../a b")]), "/tmp/runpod-worker/%2E%2E%2Fa%20b");
        let long = own(&[("RUNPOD_POD_ID", &"x".repeat(400))]);
        assert!(long.len() < 200 && long != own(&[("RUNPOD_POD_ID", &"x".repeat(401))]));
    }

    #[test]
    fn without_an_id_the_machines_name_makes_the_folder_stable() {
        assert_eq!(own(&[("HOSTNAME", "box")]), "/tmp/runpod-worker/@box");
        assert_eq!(own(&[("HOSTNAME", "box"), ("RUNPOD_POD_HOSTNAME", "pod")]), "/tmp/runpod-worker/@pod");
        assert_eq!(own(&[]), own(&[]), "the worker id is random, the folder is not");
    }

    #[test]
    fn flags_win_and_a_relative_folder_is_refused() {
        let id = ("RUNPOD_POD_ID", "w1");
        let config = load(&[id], Some("/x"), Some("w2")).unwrap();
        assert_eq!((config.own_folder(), config.required), (Some("/x/w2".into()), true));
        assert!(!load(&[id], None, None).unwrap().required);
        assert_eq!(load(&[id], Some("none"), None).unwrap().own_folder(), None);
        let error = load(&[id], Some("spool"), None).unwrap_err();
        assert!(error.lines()[0].contains("use an absolute path"), "{error}");
    }
}
