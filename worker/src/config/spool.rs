//! Settings of the spool.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::environment::Environment;
use super::settings::Settings;
use super::{RunArgs, parse};
use crate::base::Identity;
use crate::outbox::{Origin, SpoolConfig};

/// Folder of all spools below the user's state folder, or below the temporary one.
const FOLDER: &str = "runpod-worker";

/// Longest folder name made from a worker id.
const MAX_OWNER: usize = 150;

/// Characters that stand in the name of a folder as they are.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Reads where results are kept on disk.
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
        // A random id changes at every start; the name of the machine does not. No encoded id contains `@`.
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

/// The name of the folder of a worker, for any worker id.
pub(super) fn owner(id: &str) -> String {
    let name = utf8_percent_encode(id, PLAIN).to_string();
    if name.len() <= MAX_OWNER {
        return name;
    }
    // Cut names stay different. All characters are ASCII by now.
    format!("{}-{:08x}", &name[..MAX_OWNER], crc32fast::hash(id.as_bytes()))
}

/// The user's state folder, or the temporary one. Not the working directory: on a network volume several workers would share it.
fn default_folder(env: &impl Environment) -> PathBuf {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.or_else(|| absolute("TMPDIR")).unwrap_or_else(|| Path::new("/tmp").to_owned()).join(FOLDER)
}
