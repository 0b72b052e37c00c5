//! Settings of the log.

use reqwest::header::HeaderValue;
use tracing::level_filters::LevelFilter;

use super::environment::Environment;
use super::parse;
use super::receiver::receiver;
use super::settings::{Settings, show_size};
use crate::base::{Identity, Secret};
use crate::logs::{LogConfig, LogFormat, SinkConfig};

/// Smallest buffer for the log sink: a shorter one would drop every line.
const SHORTEST_BUFFER: usize = 4 * 1024;

/// Flags of `run` about the log.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Form of the lines: json, text, or auto, which is json when RUNPOD_ENDPOINT_ID is set [env: RUNPOD_WORKER_LOG_FORMAT] [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Least severe level that is logged: trace, debug, info, warn, error or off [env: RUNPOD_WORKER_LOG_LEVEL, RUNPOD_LOG_LEVEL or RUNPOD_DEBUG_LEVEL]
    /// [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Lines a second that are logged, separately for each level of the worker and for stdout and stderr of each handler
    /// process. The rest is counted. 0 for no limit [env: RUNPOD_WORKER_LOG_RATE] [default: 1000]
    #[arg(long, value_name = "N")]
    pub log_rate: Option<String>,

    /// Also post the log there, as JSON lines [env: RUNPOD_WORKER_LOG_SINK] [default: none]
    #[arg(long, value_name = "URL")]
    pub log_sink: Option<String>,

    /// Sent to the log sink as `Authorization: Bearer`. Other users of the machine can see flags: prefer the variable
    /// [env: RUNPOD_WORKER_LOG_SINK_TOKEN] [default: not set]
    #[arg(long, value_name = "TOKEN")]
    pub log_sink_token: Option<Secret>,

    /// Size of the log lines that may wait for the log sink; beyond it the oldest are dropped and counted
    /// [env: RUNPOD_WORKER_LOG_SINK_BUFFER] [default: 4MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_sink_buffer: Option<String>,
}

pub(super) fn log<E: Environment>(settings: &mut Settings<'_, E>, args: &LogArgs, identity: &Identity) -> LogConfig {
    let auto = if identity.endpoint_id.is_some() { LogFormat::Json } else { LogFormat::Text };
    LogConfig {
        format: settings.read(
            "log-format",
            args.log_format.as_deref(),
            &[],
            auto,
            |text| {
                Ok(match parse::word(text, &["auto", "json", "text"])?.as_str() {
                    "json" => LogFormat::Json,
                    "text" => LogFormat::Text,
                    _ => auto,
                })
            },
            |format| format.as_str().to_owned(),
        ),
        level: settings.read(
            "log-level",
            args.log_level.as_deref(),
            &["RUNPOD_LOG_LEVEL", "RUNPOD_DEBUG_LEVEL"],
            LevelFilter::INFO,
            runpod_log_line::parse_level,
            LevelFilter::to_string,
        ),
        rate: settings.number("log-rate", args.log_rate.as_deref(), 1000, 0..=1_000_000),
    }
}

pub(super) fn sink<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &LogArgs,
    identity: &Identity,
) -> Option<SinkConfig> {
    let url = receiver(settings, "log-sink", args.log_sink.as_deref(), &[], identity);
    let token = settings.read(
        "log-sink-token",
        args.log_sink_token.as_ref().map(Secret::expose),
        &[],
        Secret::default(),
        |text| Ok(Secret::new(text)),
        Secret::to_string,
    );
    if HeaderValue::from_str(token.expose()).is_err() {
        settings.problems.push(
            "--log-sink-token has characters that an HTTP header cannot carry: set it to the token alone".to_owned(),
        );
    }
    let buffer_bytes = settings.read(
        "log-sink-buffer",
        args.log_sink_buffer.as_deref(),
        &[],
        4 << 20,
        |text| match usize::try_from(parse::size(text)?) {
            Ok(bytes) if bytes >= SHORTEST_BUFFER => Ok(bytes),
            _ => Err(format!("use at least {}, the size of one line", show_size(SHORTEST_BUFFER as u64))),
        },
        |bytes| show_size(*bytes as u64),
    );
    Some(SinkConfig { url: url?, token, buffer_bytes })
}
