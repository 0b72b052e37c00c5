//! What is refused or warned about.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_place() {
    let env = env(&[
        ("RUNPOD_WEBHOOK_GET_JOB", ""),
        ("RUNPOD_WEBHOOK_PING", "ftp://h/ping"),
        ("RUNPOD_PING_INTERVAL", "10s"),
        ("RUNPOD_AI_API_KEY", "hunter2\u{7f}"),
        ("RUNPOD_WORKER_SLOTS", "0"),
        ("RUNPOD_WORKER_LOG_LEVEL", "loud"),
    ]);
    let flags = ["--processes=many", "--device=gpu", "--job-timeout=0s", "--http-bind=8001", "--log-format=xml"];
    let error = Config::load(&args(&flags), &env).unwrap_err();
    let expected = [
        "RUNPOD_WORKER_SLOTS: `0`",
        "--processes: `many`",
        "--device: `gpu` cannot be used: use auto, cpu, cuda",
        "--job-timeout: `0s`",
        "--http-bind: `8001`",
        "--log-format: `xml`",
        "RUNPOD_WORKER_LOG_LEVEL: `loud`",
        "RUNPOD_AI_API_KEY has characters",
        "RUNPOD_WEBHOOK_GET_JOB is empty",
        "RUNPOD_WEBHOOK_POST_OUTPUT is not set",
        "RUNPOD_PING_INTERVAL: `10s` cannot be used: it is in milliseconds",
        "RUNPOD_WEBHOOK_PING has the scheme `ftp`",
    ];
    assert_eq!(error.lines().len(), expected.len(), "{error}");
    for (line, start) in error.lines().iter().zip(expected) {
        assert!(line.starts_with(start), "{line} should start with {start}");
        assert!(line.contains(':') && !line.contains('\n'), "{line}");
    }
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1 + expected.len());
}

#[test]
fn a_handler_that_cannot_be_started_is_an_error_with_a_fix() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("handler");
    write(&file, "#!/bin/sh\n").unwrap();
    set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let problem = |handler: &[&Path]| {
        let handler = handler.iter().map(OsString::from).collect();
        let run = RunArgs { handler, ..RunArgs::default() };
        Config::load(&run, &with(Env::new(), "PATH", "/bin:/usr/bin")).map_err(|error| error.lines().join("\n"))
    };
    for (handler, fix) in [
        (&[][..], "name it last"),
        (&[folder.path()], "name the program, not its folder"),
        (&[&folder.path().join("missing")], "build it, or correct the path"),
        (&[Path::new("no-such-program")], "write ./no-such-program"),
        (&[&file], "chmod +x"),
    ] {
        let line = problem(handler).unwrap_err();
        assert!(line.contains(fix), "{line}");
    }
    set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(problem(&[&file]).unwrap().handler.program, file);
    assert!(problem(&[Path::new("sh")]).unwrap().handler.program.is_absolute(), "found in PATH");

    let by_variable = env(&[("RUNPOD_WORKER_HANDLER", "/bin/sh")]);
    assert_eq!(Config::load(&RunArgs::default(), &by_variable).unwrap().handler.program, Path::new("/bin/sh"));
}

#[test]
fn missing_variables_of_the_platform_are_warned_about() {
    let config = load(&[], &without(platform(), "RUNPOD_POD_ID"));
    assert!(config.queue.is_some() && config.heartbeat.is_none());
    assert!(config.warnings[0].contains("RUNPOD_POD_ID is not set"), "{:?}", config.warnings);

    let config = load(&[], &without(platform(), "RUNPOD_AI_API_KEY"));
    assert!(config.queue.is_some() && config.heartbeat.is_none());
    assert!(config.warnings[0].contains("RUNPOD_AI_API_KEY is not set"), "{:?}", config.warnings);

    let env = without(platform(), "RUNPOD_WEBHOOK_POST_STREAM");
    assert!(load(&[], &env).queue.unwrap().stream.is_none());
    let env = with(env, "RUNPOD_WEBHOOK_JOB_STREAM", "http://h/stream/$ID");
    assert!(load(&[], &env).queue.unwrap().stream.is_some());

    let config = load(&[], &with(platform(), "RUNPOD_PING_INTERVAL", "999"));
    assert_eq!(config.heartbeat.unwrap().interval, Duration::from_secs(1));
    assert!(config.warnings[0].contains("below 1000"), "{:?}", config.warnings);

    let config = load(&[], &without(platform(), "RUNPOD_PING_INTERVAL"));
    assert_eq!(config.heartbeat.unwrap().interval, Duration::from_secs(10));
}

#[test]
fn a_misspelt_variable_is_warned_about() {
    let config = load(&[], &env(&[("RUNPOD_WORKER_SLOT", "2"), ("RUNPOD_WORKER_SLOTS", "2"), ("OTHER", "x")]));
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].starts_with("RUNPOD_WORKER_SLOT is not a setting"), "{:?}", config.warnings);
}

#[test]
fn mistakes_about_alerts_are_named_without_the_url() {
    let env = with(platform(), "RUNPOD_WORKER_ALERT_WEBHOOK", "hooks.example.org/s3cret");
    let flags = ["--alert-rules", "/nowhere/rules.toml", "--alert-format", "email"];
    let error = Config::load(&args(&flags), &env).unwrap_err().to_string();
    for part in ["the alert webhook is not a URL", "/nowhere/rules.toml", "use plain, slack, discord"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn values_that_cannot_work_together_are_refused_with_the_reason() {
    let cases: [Case; 8] = [
        (&["--spool=always", "--spool-dir=none"], &[], "--spool=always needs a folder"),
        (&["--gpu-interval=1m", "--gpu-floor-window=10s"], &[], "--gpu-floor-window is 10s"),
        (&["--refresh-worker", "--on-refresh=restart-handler"], &[], "use one of them"),
        (&["--refresh-worker", "--prefetch=1"], &[], "use --prefetch=0"),
        (&["--device=cpu", "--min-gpu-memory=1GiB"], &[], "--min-gpu-memory needs a GPU"),
        (&["--load-stall-timeout=1m"], &[("RUNPOD_GPU_TEST_TIMEOUT", "60")], "RUNPOD_GPU_TEST_TIMEOUT is 1m"),
        (&[], &[("RUNPOD_POD_ID", "../w1")], "RUNPOD_POD_ID has a character"),
        (&["--log-sink=http://h", "--log-sink-buffer=1KiB"], &[], "use at least 4 KiB"),
    ];
    for (flags, variables, reason) in cases {
        let error = Config::load(&args(flags), &env(variables)).unwrap_err();
        assert!(error.lines().len() == 1 && error.lines()[0].contains(reason), "{reason:?} is not in {error}");
    }
    let order = load(&["--load-stall-timeout=7s"], &Env::new()).policy.checks.unwrap();
    assert_eq!(order.gpu_limit_ms, 7000, "a default follows the limit of the start");
}

#[test]
fn settings_without_effect_are_warned_about() {
    let cases: [Case; 4] = [
        (&["--log-sink-token=t"], &[], "--log-sink-token has no effect without --log-sink"),
        (&["--tenant-limit=3"], &[], "--tenant-limit has no effect without --tenant-field"),
        (&["--flush-grace=0s", "--spool-dir=none"], &[], "are lost on shutdown"),
        (&[], &[("RUNPOD_PING_INTERVAL", "30000")], "RUNPOD_PING_INTERVAL is 30s"),
    ];
    for (flags, variables, warning) in cases {
        let mut env = platform();
        env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let warnings = load(flags, &env).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(warning), "{warning:?} is not in {warnings:?}");
    }
}
