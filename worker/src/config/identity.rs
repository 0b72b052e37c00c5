//! The names of this worker.

use uuid::Uuid;

use super::environment::Environment;
use super::settings::Settings;
use crate::base::{Identity, check_id};

pub(super) fn identity<E: Environment>(settings: &mut Settings<'_, E>) -> Identity {
    let worker_id = settings.variable("RUNPOD_POD_ID").unwrap_or_else(|| {
        let id = Uuid::new_v4().to_string();
        settings.show("runpod-pod-id", &id, "random: RUNPOD_POD_ID is not set");
        id
    });
    Identity {
        worker_id,
        hostname: settings.variable("RUNPOD_POD_HOSTNAME").unwrap_or_else(|| "unknown".to_owned()),
        endpoint_id: settings.variable("RUNPOD_ENDPOINT_ID"),
    }
}

/// Adds a problem if the id cannot be a part of a URL.
pub(super) fn check_worker_id<E: Environment>(settings: &mut Settings<'_, E>, identity: &Identity) {
    if let Err(error) = check_id(&identity.worker_id) {
        settings.problems.push(format!("RUNPOD_POD_ID {error}: it is a part of every URL of the queue"));
    }
}
