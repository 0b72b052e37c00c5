//! Settings of alerts.

use std::path::PathBuf;

use runpod_alerts::{Format, WebhookUrl, load_rules};

use super::environment::Environment;
use super::settings::Settings;
use super::{ConfigErrors, parse};
use crate::alerts::AlertConfig;

/// Flags of `run` and `alerts` about alerts.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Alerts")]
pub struct AlertArgs {
    /// URL that alerts are posted to; without it they are only logged. It is a secret, and other users of the machine can see
    /// flags: prefer the variable [env: RUNPOD_WORKER_ALERT_WEBHOOK] [default: not set]
    #[arg(long, value_name = "URL", alias = "webhook")]
    pub alert_webhook: Option<String>,

    /// TOML file that changes, adds or switches off alert rules; `runpod-worker alerts --dry-run` prints those in effect
    /// [env: RUNPOD_WORKER_ALERT_RULES] [default: none]
    #[arg(long, value_name = "FILE", alias = "rules")]
    pub alert_rules: Option<String>,

    /// Shape of the body: plain, slack or discord [env: RUNPOD_WORKER_ALERT_FORMAT] [default: plain]
    #[arg(long, value_name = "FORMAT", alias = "format")]
    pub alert_format: Option<String>,
}

/// Reads the settings of alerts as `run` would read them.
///
/// # Errors
/// Every mistake at once.
pub fn load_alerts(args: &AlertArgs, env: &impl Environment) -> Result<AlertConfig, ConfigErrors> {
    let mut settings = Settings::new(env);
    let config = alerts(&mut settings, args);
    if settings.problems.is_empty() { Ok(config) } else { Err(ConfigErrors::new(settings.problems)) }
}

pub(super) fn alerts<E: Environment>(settings: &mut Settings<'_, E>, args: &AlertArgs) -> AlertConfig {
    // A wrong URL is not an error of `read`, whose text would show it.
    let url = settings.read(
        "alert-webhook",
        args.alert_webhook.as_deref(),
        &[],
        None,
        |text| Ok(Some(WebhookUrl::parse(text))),
        |url| if url.is_some() { "set" } else { "not set" }.to_owned(),
    );
    let webhook = url.and_then(|url| url.map_err(|error| settings.problems.push(error.to_string())).ok());
    let file = settings.read(
        "alert-rules",
        args.alert_rules.as_deref(),
        &[],
        None,
        |text| Ok((!text.eq_ignore_ascii_case("none")).then(|| PathBuf::from(text))),
        |file| file.as_ref().map_or_else(|| "none".to_owned(), |file| file.display().to_string()),
    );
    let rules = load_rules(file.as_deref()).unwrap_or_else(|error| {
        settings.problems.push(error.to_string());
        Vec::new()
    });
    let format = settings.read(
        "alert-format",
        args.alert_format.as_deref(),
        &[],
        Format::Plain,
        |text| {
            let name = parse::word(text, &Format::ALL.map(Format::as_str))?;
            Ok(Format::from_name(&name).unwrap_or_default())
        },
        |format| format.as_str().to_owned(),
    );
    AlertConfig { rules, webhook, format }
}
