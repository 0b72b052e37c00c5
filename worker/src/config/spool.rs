//! Where results are kept on disk.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::environment::Environment;
use super::settings::Settings;
use super::{ConfigErrors, RunArgs, parse};
use crate::base::Identity;
use crate::outbox::{Origin, SpoolConfig};
use crate::queue::QueueConfig;

/// Folder of all spools below the user's state folder, or below the temporary one.
const FOLDER: &str = "runpod-worker";

/// Longest folder name made from a worker id.
const MAX_OWNER: usize = 150;

/// What may stand in a folder's name as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Where the dead letters are and where they may be sent.
#[derive(Clone, Debug)]
pub struct DeadLetterConfig {
    /// Where results are kept.
    pub spool: SpoolConfig,
    /// The queue; `None` when `RUNPOD_WEBHOOK_GET_JOB` is not set.
    pub queue: Option<QueueConfig>,
}

impl DeadLetterConfig {
    /// Reads what the worker itself would read, without a handler. The flags win over the environment.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(folder: Option<&str>, worker: Option<&str>, env: &impl Environment) -> Result<Self, ConfigErrors> {
        let mut settings = Settings::new(env);
        let mut identity = super::load::identity(&mut settings);
        let args = RunArgs { spool_dir: folder.map(str::to_owned), ..RunArgs::default() };
        if let Some(worker) = worker {
            worker.clone_into(&mut identity.worker_id);
        }
        let mut spool = spool(&mut settings, &args, &identity);
        if let Some(worker) = worker {
            spool.owner = owner(worker);
        }
        let (queue, _) = super::load::queue(&mut settings, &identity);
        if settings.problems.is_empty() { Ok(Self { spool, queue }) } else { Err(ConfigErrors::new(settings.problems)) }
    }
}

pub(super) fn spool<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &RunArgs,
    identity: &Identity,
) -> SpoolConfig {
    let default = default_folder(settings.env);
    let required = args.spool_dir.is_some() || settings.env.get("RUNPOD_WORKER_SPOOL_DIR").is_some();
    let folder = settings.read("spool-dir", args.spool_dir.as_deref(), &[], Some(default), parse::folder, |folder| {
        folder.as_ref().map_or_else(|| "none".to_owned(), |folder| folder.display().to_string())
    });
    let always = settings.read(
        "spool",
        args.spool.as_deref(),
        &[],
        "overdue".to_owned(),
        |text| parse::word(text, &["overdue", "always"]),
        String::clone,
    );
    let owner = match settings.env.get("RUNPOD_POD_ID") {
        Some(_) => owner(&identity.worker_id),
        // The id is a new one at every start; the machine's name is what stays. `@` is in no encoded id.
        None => format!("@{}", owner(&machine(settings.env, identity))),
    };
    let template = settings.env.raw("RUNPOD_WEBHOOK_POST_OUTPUT");
    let origin = template.map(|template| Origin::new(&identity.worker_id, &template)).unwrap_or_default();
    SpoolConfig { folder, required, always: always == "always", owner, origin }
}

/// The name of the machine or container.
fn machine(env: &impl Environment, identity: &Identity) -> String {
    if env.get("RUNPOD_POD_HOSTNAME").is_some() {
        return identity.hostname.clone();
    }
    env.get("HOSTNAME").unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// A folder's name for any id.
fn owner(id: &str) -> String {
    let name = utf8_percent_encode(id, PLAIN).to_string();
    if name.len() <= MAX_OWNER {
        return name;
    }
    // Cut names stay different. All characters are ASCII by now.
    format!("{}-{:08x}", &name[..MAX_OWNER], crc32fast::hash(id.as_bytes()))
}

/// Never the working directory: on a network volume several workers would share it.
fn default_folder(env: &impl Environment) -> PathBuf {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.or_else(|| absolute("TMPDIR")).unwrap_or_else(|| Path::new("/tmp").to_owned()).join(FOLDER)
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
