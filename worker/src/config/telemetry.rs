//! Settings of logs and traces.

use reqwest::header::HeaderValue;
use tracing::level_filters::LevelFilter;

use super::environment::Environment;
use super::parse;
use super::settings::Settings;
use crate::base::{Identity, Secret, UrlTemplate};
use crate::logs::{LogConfig, LogFormat, SinkConfig};
use crate::traces::TraceConfig;

/// Flags of `run` about logs and traces.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TelemetryArgs {
    /// json, text, or auto: json when RUNPOD_ENDPOINT_ID is set [env: RUNPOD_WORKER_LOG_FORMAT] [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// trace, debug, info, warn, error or off [env: RUNPOD_WORKER_LOG_LEVEL, RUNPOD_LOG_LEVEL or RUNPOD_DEBUG_LEVEL]
    /// [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Lines a second that are logged of each level by the worker, and of stdout and stderr of each handler process; the rest
    /// is counted. 0 for no limit [env: RUNPOD_WORKER_LOG_RATE] [default: 1000]
    #[arg(long, value_name = "N")]
    pub log_rate: Option<String>,

    /// Also post the log there, as JSON lines [env: RUNPOD_WORKER_LOG_SINK] [default: none]
    #[arg(long, value_name = "URL")]
    pub log_sink: Option<String>,

    /// Sent to the log sink as `Authorization: Bearer`. Other users see flags, so better use the variable
    /// [env: RUNPOD_WORKER_LOG_SINK_TOKEN] [default: none]
    #[arg(long, value_name = "TOKEN")]
    pub log_sink_token: Option<Secret>,

    /// Log lines that may wait for the log sink; beyond it the oldest are dropped and counted
    /// [env: RUNPOD_WORKER_LOG_SINK_BUFFER] [default: 4MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_sink_buffer: Option<String>,

    /// Export traces to this OTLP receiver over HTTP; `/v1/traces` is appended [env: RUNPOD_WORKER_OTLP_ENDPOINT or
    /// OTEL_EXPORTER_OTLP_ENDPOINT] [default: none]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

pub(super) fn log<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &TelemetryArgs,
    identity: &Identity,
) -> LogConfig {
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
            parse::level,
            LevelFilter::to_string,
        ),
        rate: settings.number("log-rate", args.log_rate.as_deref(), 1000, 0..=1_000_000),
    }
}

pub(super) fn sink<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &TelemetryArgs,
    identity: &Identity,
) -> Option<SinkConfig> {
    let url = url(settings, "log-sink", args.log_sink.as_deref(), &[], identity);
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
        |text| usize::try_from(parse::size(text)?).map_err(|error| error.to_string()),
        |bytes| format!("{bytes} bytes"),
    );
    Some(SinkConfig { url: url?, token, buffer_bytes })
}

pub(super) fn traces<E: Environment>(
    settings: &mut Settings<'_, E>,
    args: &TelemetryArgs,
    identity: &Identity,
) -> Option<TraceConfig> {
    let platform = ["OTEL_EXPORTER_OTLP_ENDPOINT"];
    let endpoint = url(settings, "otlp-endpoint", args.otlp_endpoint.as_deref(), &platform, identity)?;
    Some(TraceConfig { endpoint })
}

/// An address that may name the worker with `$RUNPOD_POD_ID`. What is secret in it is not shown.
fn url<E: Environment>(
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
