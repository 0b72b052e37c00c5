//! Addresses that logs and traces are sent to.

use super::environment::Environment;
use super::settings::Settings;
use crate::base::{Identity, UrlTemplate};

/// Reads the setting `--name`: a URL that may contain `$RUNPOD_POD_ID`, or `none`. Its secret parts are not shown.
pub(super) fn receiver<E: Environment>(
    settings: &mut Settings<'_, E>,
    name: &str,
    flag: Option<&str>,
    platform: &[&str],
    identity: &Identity,
) -> Option<UrlTemplate> {
    let parse = |text: &str| {
        if text.eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        let url = UrlTemplate::new(text, &identity.worker_id, None);
        url.map(Some).map_err(|_| "use a URL such as https://logs.example.com/ingest, or none".to_owned())
    };
    let show = |url: &Option<UrlTemplate>| url.as_ref().map_or_else(|| "none".to_owned(), UrlTemplate::to_string);
    settings.read(name, flag, platform, None, parse, show)
}
