mod problems;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::write;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use super::*;
use crate::logs::LogFormat;
use runpod_worker_core::{JobId, OnRefresh};

type Env = BTreeMap<String, String>;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

/// `sh` stands for a handler that is there.
fn args(flags: &[&str]) -> RunArgs {
    let words = ["run"].iter().chain(flags).chain(&["--", "/bin/sh", "-c", "true"]);
    Cli::try_parse_from(words).unwrap().run
}

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What the platform sets.
fn platform() -> Env {
    env(&[
        ("RUNPOD_WEBHOOK_GET_JOB", "http://h/v2/ep/job-take/$ID?gpu=$RUNPOD_GPU_TYPE_ID&token=hunter2"),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", "http://h/v2/ep/job-done/$RUNPOD_POD_ID/$ID"),
        ("RUNPOD_WEBHOOK_POST_STREAM", "http://h/v2/ep/job-stream/$RUNPOD_POD_ID/$ID"),
        ("RUNPOD_WEBHOOK_PING", "http://h/v2/ep/ping/$RUNPOD_POD_ID"),
        ("RUNPOD_PING_INTERVAL", "4000"),
        ("RUNPOD_AI_API_KEY", "hunter2"),
        ("RUNPOD_POD_ID", "w1"),
        ("RUNPOD_POD_HOSTNAME", "host-1"),
        ("RUNPOD_ENDPOINT_ID", "ep"),
        ("RUNPOD_GPU_TYPE_ID", "NVIDIA L4"),
    ])
}

fn with(mut env: Env, name: &str, value: &str) -> Env {
    env.insert(name.to_owned(), value.to_owned());
    env
}

fn without(mut env: Env, name: &str) -> Env {
    env.remove(name);
    env
}

fn load(flags: &[&str], env: &Env) -> Config {
    Config::load(&args(flags), env).unwrap()
}

#[test]
fn the_platforms_variables_make_a_complete_configuration() {
    let config = load(&[], &platform());
    let queue = config.queue.unwrap();
    assert_eq!(queue.take.for_worker("w1"), "http://h/v2/ep/job-take/w1?gpu=NVIDIA%20L4&token=hunter2");
    assert_eq!(queue.done.for_job(&JobId::from("j")), "http://h/v2/ep/job-done/w1/j");
    assert_eq!(queue.stream.unwrap().for_job(&JobId::from("j")), "http://h/v2/ep/job-stream/w1/j");
    assert_eq!(queue.key.expose(), "hunter2");
    let heartbeat = config.heartbeat.unwrap();
    assert_eq!(heartbeat.interval, Duration::from_secs(4));
    assert_eq!(heartbeat.url.for_worker("w1"), "http://h/v2/ep/ping/w1");
    let endpoint_id = Some("ep".to_owned());
    assert_eq!(config.identity, Identity { worker_id: "w1".into(), hostname: "host-1".into(), endpoint_id });
    assert_eq!(config.policy.worker_id, "w1");
    assert_eq!(config.log, LogConfig { format: LogFormat::Json, level: LevelFilter::INFO, rate: 1000 });
    assert_eq!(config.handler.program, Path::new("/bin/sh"));
    assert_eq!(config.handler.args, ["-c", "true"]);
    assert_eq!(config.http_bind, Some("127.0.0.1:8001".parse().unwrap()));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn without_a_queue_there_is_no_network() {
    let config = load(&[], &without(platform(), "RUNPOD_WEBHOOK_GET_JOB"));
    assert!(config.queue.is_none() && config.heartbeat.is_none());
    let config = load(&[], &Env::new());
    assert!(config.queue.is_none());
    assert_eq!(config.identity.hostname, "unknown");
    assert_eq!(config.log.format, LogFormat::Text);
    assert_ne!(config.identity.worker_id, load(&[], &Env::new()).identity.worker_id, "random ids differ");
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_default() {
    assert_eq!(load(&[], &Env::new()).policy.slots, 1);
    let env = env(&[("RUNPOD_WORKER_SLOTS", " 2 ")]);
    assert_eq!(load(&[], &env).policy.slots, 2);
    assert_eq!(load(&["--slots", "3"], &env).policy.slots, 3);
    let empty = with(Env::new(), "RUNPOD_WORKER_SLOTS", "");
    assert_eq!(load(&[], &empty).policy.slots, 1, "an empty variable counts as absent");
}

/// Each setting: its flag, another value, and how to see that this value, and nothing else, took effect.
#[test]
fn every_setting_has_its_one_effect_by_flag_and_by_variable() {
    type Read = fn(&Config) -> String;
    let cases: [(&str, &str, Read); 24] = [
        ("slots", "7", |c| c.policy.slots.to_string()),
        ("processes", "7", |c| c.policy.processes.to_string()),
        ("prefetch", "7", |c| c.policy.prefetch.to_string()),
        ("device", "cuda", |c| c.policy.device.clone()),
        ("job-timeout", "7s", |c| format!("{:?}", c.policy.job_timeout)),
        ("cancel-grace", "7s", |c| format!("{:?}", c.policy.cancel_grace)),
        ("drain-grace", "7s", |c| format!("{:?}", c.policy.drain_grace)),
        ("flush-grace", "7s", |c| format!("{:?}", c.policy.flush_grace)),
        ("load-stall-timeout", "7s", |c| format!("{:?}", c.policy.load_stall_timeout)),
        ("http-bind", "0.0.0.0:7", |c| c.http_bind.map(|bind| bind.to_string()).unwrap_or_default()),
        ("http-bind", "none", |c| c.http_bind.map_or("none".to_owned(), |bind| bind.to_string())),
        ("http-connections", "70", |c| c.http_connections.to_string()),
        ("outbox-limit-bytes", "7000000", |c| c.outbox.max_bytes.to_string()),
        ("spool-dir", "/x", |c| {
            c.spool.folder.as_ref().map_or("none".to_owned(), |folder| folder.display().to_string())
        }),
        ("spool-dir", "none", |c| {
            c.spool.folder.as_ref().map_or("none".to_owned(), |folder| folder.display().to_string())
        }),
        ("gpu-interval", "7s", |c| format!("{:?}", c.gpus.interval)),
        ("gpu-floor-window", "7s", |c| format!("{:?}", c.gpus.floor_window)),
        ("spool", "always", |c| if c.spool.always { "always" } else { "overdue" }.to_owned()),
        ("stop-with-stdin", "true", |c| c.stop_with_stdin.to_string()),
        ("log-format", "json", |c| c.log.format.as_str().to_owned()),
        ("log-level", "trace", |c| c.log.level.to_string()),
        ("log-rate", "7", |c| c.log.rate.to_string()),
        ("log-sink", "http://h/logs?x=1", |c| {
            c.log_sink.as_ref().map(|sink| sink.url.for_worker("")).unwrap_or_default()
        }),
        ("otlp-endpoint", "http://h:4318", |c| {
            c.traces.as_ref().map(|traces| traces.endpoint.for_worker("")).unwrap_or_default()
        }),
    ];
    let defaults = load(&[], &Env::new());
    for (name, value, read) in cases {
        let variable = format!("RUNPOD_WORKER_{}", name.replace('-', "_").to_uppercase());
        for config in [load(&[&format!("--{name}"), value], &Env::new()), load(&[], &env(&[(&variable, value)]))] {
            assert_eq!(read(&config), value, "{name}");
            assert_ne!(read(&defaults), value, "{name}");
            assert!(config.warnings.is_empty(), "{:?}", config.warnings);
            for (other, _, read) in cases.iter().filter(|(other, ..)| *other != name) {
                assert_eq!(read(&config), read(&defaults), "{name} changed {other}");
            }
        }
    }
}

#[test]
fn the_log_sink_has_a_token_and_a_bound() {
    let sink = load(&["--log-sink", "https://h/$RUNPOD_POD_ID?k=hunter2"], &platform()).log_sink.unwrap();
    assert_eq!((sink.url.for_worker("w1").as_str(), sink.buffer_bytes), ("https://h/w1?k=hunter2", 4 << 20));
    assert!(sink.token.is_empty());
    let flags = ["--log-sink=http://h", "--log-sink-token=hunter2", "--log-sink-buffer=7KiB"];
    let variables = env(&[
        ("RUNPOD_WORKER_LOG_SINK", "http://h"),
        ("RUNPOD_WORKER_LOG_SINK_TOKEN", "hunter2"),
        ("RUNPOD_WORKER_LOG_SINK_BUFFER", "7KiB"),
    ]);
    for config in [load(&flags, &Env::new()), load(&[], &variables)] {
        let sink = config.log_sink.as_ref().unwrap();
        assert_eq!((sink.token.expose(), sink.buffer_bytes), ("hunter2", 7 * 1024));
        assert!(!config.description.to_string().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    }
    assert!(!format!("{:?}", args(&flags)).contains("hunter2"));
    let env = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")]);
    assert_eq!(load(&[], &env).traces.unwrap().endpoint.for_worker(""), "http://collector:4318");
    assert!(load(&["--otlp-endpoint", "none"], &env).traces.is_none());
}

#[test]
fn the_platforms_names_for_settings_are_known() {
    let config = load(&[], &env(&[("RUNPOD_INIT_TIMEOUT", "800"), ("RUNPOD_DEBUG_LEVEL", "WARNING")]));
    assert_eq!(config.policy.load_stall_timeout, Duration::from_secs(800));
    assert_eq!(config.log.level, LevelFilter::WARN);
    let env = env(&[("RUNPOD_DEBUG_LEVEL", "ERROR"), ("RUNPOD_LOG_LEVEL", "10"), ("RUNPOD_INIT_TIMEOUT", "1")]);
    let config = load(&["--load-stall-timeout", "9s"], &env);
    assert_eq!(config.log.level, LevelFilter::DEBUG);
    assert_eq!(config.policy.load_stall_timeout, Duration::from_secs(9));
}

#[test]
fn the_description_shows_origins_and_no_secrets() {
    let config = load(&["--slots=3"], &with(platform(), "RUNPOD_WORKER_JOB_TIMEOUT", "90s"));
    let text = &config.description.to_string();
    let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
    assert!(line("slots").ends_with("= 3 (--slots)"), "{text}");
    assert!(line("job-timeout").ends_with("= 1m 30s (RUNPOD_WORKER_JOB_TIMEOUT)"), "{text}");
    assert!(line("prefetch").ends_with("= 0 (default)"), "{text}");
    assert!(line("key").ends_with("= set (RUNPOD_AI_API_KEY)"), "{text}");
    assert!(line("runpod-webhook-get-job").contains("http://h/v2/ep/job-take/$ID "), "{text}");
    assert!(line("handler").ends_with("= /bin/sh (command line)"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn help_names_the_variable_of_every_flag() {
    use clap::CommandFactory;
    let help = Cli::command().term_width(0).render_long_help().to_string();
    let shown = load(&[], &Env::new());
    for name in shown.description.lines().filter(|line| line.ends_with("(default)")) {
        let name = name.split_whitespace().next().unwrap();
        let variable = format!("RUNPOD_WORKER_{}", name.replace('-', "_").to_uppercase());
        assert!(help.contains(&format!("--{name} ")) && help.contains(&variable), "{name} is not in:\n{help}");
    }
}

/// A flag that is set to the default of its help text must have no effect.
#[test]
fn help_names_the_default_of_every_flag() {
    use clap::CommandFactory as _;
    // Their defaults are texts, not values.
    const EXPLAINED: [&str; 1] = ["spool-dir"];
    let value = |config: &Config, name: &str| {
        let lines: Vec<String> = config.description.lines().collect();
        let line = lines.iter().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_once(" = ").unwrap().1.rsplit_once(" (").unwrap().0.to_owned()
    };
    let defaults = load(&[], &Env::new());
    let command = Cli::command();
    let mut seen = 0;
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long().filter(|name| !EXPLAINED.contains(name) && *name != "check-config") else {
            continue;
        };
        let help = arg.get_long_help().or(arg.get_help()).unwrap().to_string();
        let (_, default) = help.split_once("[default: ").unwrap_or_else(|| panic!("--{name} shows no default: {help}"));
        let default = default.split_once(']').unwrap().0;
        if default != "not set" {
            let config = load(&[&format!("--{name}={default}")], &Env::new());
            assert_eq!(value(&config, name), value(&defaults, name), "the default of --{name} is not {default}");
        } else {
            assert_eq!(value(&defaults, name), default, "--{name}");
        }
        seen += 1;
    }
    assert!(seen > 35, "only {seen} flags were found");
}

#[test]
fn only_values_that_differ_from_the_default_are_changes() {
    let config = load(&["--slots=3", "--prefetch=0"], &env(&[("RUNPOD_WORKER_JOB_TIMEOUT", "600s")]));
    let changes: Vec<String> = config.description.changes().collect();
    assert!(changes.contains(&"slots = 3 (--slots)".to_owned()), "{changes:?}");
    assert!(!changes.iter().any(|line| line.starts_with("prefetch") || line.starts_with("job-timeout")), "{changes:?}");
}

#[test]
fn each_process_sees_a_gpu_of_its_own() {
    let devices = |flags: &[&str], env: &Env| load(flags, env).handler.devices;
    assert!(devices(&[], &platform()).is_empty(), "a single process sees what the worker sees");
    assert_eq!(devices(&["--processes", "2"], &platform()), ["0", "1"]);
    let chosen = with(platform(), "CUDA_VISIBLE_DEVICES", "GPU-a, 7,3");
    assert_eq!(devices(&["--processes", "2"], &chosen), ["GPU-a", "7"]);
    let errors = Config::load(&args(&["--processes", "4"]), &chosen).unwrap_err();
    assert!(errors.lines().iter().any(|line| line.contains("CUDA_VISIBLE_DEVICES names 3 of the 4")), "{errors}");
}

type Read = fn(&Config) -> String;

/// Flag, value, what it looks like in the configuration. Each has its effect by flag and by variable, and no other.
fn assert_settings(cases: &[(&str, &str, &str, Read)], env: &Env) {
    let defaults = load(&[], env);
    for (name, value, expected, read) in cases {
        let variable = format!("RUNPOD_WORKER_{}", name.replace('-', "_").to_uppercase());
        for config in [load(&[&format!("--{name}"), value], env), load(&[], &with(env.clone(), &variable, value))] {
            assert_eq!(read(&config), *expected, "{name}");
            assert_ne!(read(&defaults), *expected, "{name}");
            for (other, _, _, read) in cases.iter().filter(|(other, ..)| other != name) {
                assert_eq!(read(&config), read(&defaults), "{name} changed {other}");
            }
        }
    }
}

#[test]
fn metrics_and_cost_are_set_by_flag_and_by_variable() {
    let cases: [(&str, &str, &str, Read); 4] = [
        ("tenant-field", "input.org", "input.org", |c| {
            c.queue.as_ref().and_then(|queue| queue.tenant.as_ref()).map(ToString::to_string).unwrap_or_default()
        }),
        ("tenant-limit", "7", "7", |c| c.tenant_limit.to_string()),
        ("price-per-hour", "1.25", "Some(1.25)", |c| format!("{:?}", c.policy.price_per_hour)),
        ("cost-in-result", "true", "true", |c| c.policy.cost_in_result.to_string()),
    ];
    assert_settings(&cases, &platform());
    for bad in ["--tenant-field=a..b", "--tenant-limit=0", "--price-per-hour=cheap", "--price-per-hour=-1"] {
        let error = Config::load(&args(&[bad]), &platform()).unwrap_err();
        assert_eq!(error.lines().len(), 1, "{bad}: {error}");
    }
}

#[test]
fn recycling_and_checks_are_set_by_flag_and_by_variable() {
    let cases: [(&str, &str, &str, Read); 9] = [
        ("max-jobs", "7", "Some(7)", |c| format!("{:?}", c.policy.recycle.max_jobs)),
        ("max-rss", "2KiB", "Some(2048)", |c| format!("{:?}", c.policy.recycle.max_rss)),
        ("max-vram", "3 KiB", "Some(3072)", |c| format!("{:?}", c.policy.recycle.max_vram)),
        ("max-age", "7s", "Some(7s)", |c| format!("{:?}", c.policy.recycle.max_age)),
        ("refresh-worker", "true", "true", |c| c.policy.refresh_worker.to_string()),
        ("on-refresh", "exit", "exit", |c| c.policy.on_refresh.as_str().to_owned()),
        ("probe-interval", "0s", "0ns", |c| format!("{:?}", c.policy.probe_interval)),
        ("min-gpu-memory", "1KiB", "1024", |c| c.policy.checks.as_ref().unwrap().min_gpu_memory.to_string()),
        ("check-network", "example.com:443", "example.com:443", |c| c.checks.network.clone().unwrap_or_default()),
    ];
    assert_settings(&cases, &Env::new());
    assert!(load(&["--refresh-worker"], &Env::new()).policy.refresh_worker, "the flag alone is enough");
    assert_eq!(load(&["--max-jobs", "none"], &Env::new()).policy.recycle.max_jobs, None);
}

#[test]
fn a_refresh_ends_the_worker_only_on_the_platform() {
    assert_eq!(load(&[], &platform()).policy.on_refresh, OnRefresh::Exit);
    let off_platform = without(platform(), "RUNPOD_ENDPOINT_ID");
    assert_eq!(load(&[], &off_platform).policy.on_refresh, OnRefresh::RestartHandler);
}

#[test]
fn checks_follow_the_platforms_variables_and_defaults() {
    let config = load(&["--device=cuda"], &platform());
    let order = config.policy.checks.unwrap();
    assert_eq!((order.worker_id.as_str(), order.device.as_str()), ("w1", "cuda"));
    assert!(order.system && order.gpu_memory && config.checks.skipped_by.is_none());
    assert_eq!((order.min_cuda, order.benchmark_limit_ms, order.gpu_limit_ms), ((11, 8), 2000, 30_000));
    assert_eq!((config.checks.min_memory, config.checks.min_disk_percent), (4 << 30, 10.0));
    assert_eq!((config.checks.network, config.checks.network_timeout), (None, Duration::from_secs(5)));
    let folders = |flags: &[&str]| load(flags, &platform()).checks.folders;
    assert_eq!(folders(&["--spool-dir=/var/spool/x"]), [Path::new("/"), Path::new("/var/spool/x")]);
    assert_eq!(folders(&["--spool-dir=none"]), [Path::new("/")]);

    let config = load(
        &[],
        &env(&[
            ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "True"),
            ("RUNPOD_SKIP_GPU_CHECK", "TRUE"),
            ("RUNPOD_MIN_MEMORY_GB", "0.5"),
            ("RUNPOD_MIN_DISK_PERCENT", "5"),
            ("RUNPOD_MIN_CUDA_VERSION", "12.4"),
            ("RUNPOD_GPU_BENCHMARK_TIMEOUT", "0.1"),
            ("RUNPOD_GPU_TEST_TIMEOUT", "7"),
            ("RUNPOD_NETWORK_CHECK_TIMEOUT", "2"),
        ]),
    );
    let order = config.policy.checks.unwrap();
    assert!(!order.system && !order.gpu_memory);
    assert_eq!(config.checks.skipped_by, Some("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"));
    assert_eq!((order.min_cuda, order.benchmark_limit_ms, order.gpu_limit_ms), ((12, 4), 100, 7000));
    assert_eq!((config.checks.min_memory, config.checks.min_disk_percent), (1 << 29, 5.0));
    assert_eq!(config.checks.network_timeout, Duration::from_secs(2));

    let wrong = env(&[("RUNPOD_MIN_MEMORY_GB", "much"), ("RUNPOD_MIN_CUDA_VERSION", "new")]);
    let error = Config::load(&args(&["--check-network=nowhere", "--max-rss=0"]), &wrong).unwrap_err();
    assert_eq!(error.lines().len(), 4, "{error}");
    for (value, skipped) in [("1", true), ("Yes", true), ("on", true), ("0", false), ("enabled", false)] {
        let config = load(&[], &env(&[("RUNPOD_SKIP_FITNESS_CHECKS", value)]));
        let expected = skipped.then_some("RUNPOD_SKIP_FITNESS_CHECKS");
        assert_eq!((config.checks.skipped_by, config.policy.checks.is_none()), (expected, skipped), "{value}");
    }
}

#[test]
fn alerts_have_default_rules_and_their_webhook_is_not_shown() {
    let config = load(&[], &platform());
    assert_eq!((config.alerts.rules.len(), config.alerts.webhook), (8, None));

    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.toml");
    write(&rules, "[queue_depth]\nenabled = false\n").unwrap();
    let url = "https://hooks.example.org/T0/s3cret";
    let env = with(platform(), "RUNPOD_WORKER_ALERT_WEBHOOK", url);
    let config = load(&["--alert-rules", rules.to_str().unwrap(), "--alert-format", "slack"], &env);
    assert_eq!((config.alerts.rules.len(), config.alerts.format), (7, runpod_alerts::Format::Slack));
    assert_eq!(config.alerts.webhook.as_ref().unwrap().expose(), url);
    let shown = format!("{} {:?}", config.description, config.alerts);
    assert!(shown.contains("alert-webhook") && !shown.contains("s3cret"), "{shown}");
}

/// Flags, variables, and a part of what is said about them.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
