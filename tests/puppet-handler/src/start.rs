//! How the test handler starts, by the environment variable `PUPPET_START`:
//!
//! | value | effect |
//! | --- | --- |
//! | `exit` | exits with status 3 before it sends `Hello` |
//! | `hang` | never sends `Hello`; ends when the connection does |
//! | `wrong_protocol` | sends `Hello` with protocol 999 |
//! | `garbage` | writes bytes that are not a frame |
//! | `load_fail`, `load_panic`, `load_segv`, `load_hang` | `load` fails, panics, crashes or never returns |
//! | `load_slow` | `load` takes `PUPPET_LOAD_MS` (default 1000), with progress |
//! | `raw_…` | uses raw frames, see [`crate::raw`] |
//!
//! With `PUPPET_CHECK=fail` its fitness check fails.
//!
//! With `PUPPET_ONCE=<file>` only the first process does so: it creates the file, and a process that finds the file starts
//! normally.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use runpod_handler_sdk::{Check, HandlerError, LoadEnv};
use rustix::process::Signal;

use crate::{die_of, raw};

/// The value of [`plan`] at the start of the process: a second call would find the file of `PUPPET_ONCE`.
static LOAD_PLAN: OnceLock<String> = OnceLock::new();
/// Number of steps of a slow load.
const STEPS: u64 = 10;

/// The effective `PUPPET_START`; empty for a normal start.
pub(crate) fn plan() -> String {
    let plan = std::env::var("PUPPET_START").unwrap_or_default();
    let done_before = std::env::var("PUPPET_ONCE").is_ok_and(|file| File::create_new(file).is_err());
    if done_before { String::new() } else { plan }
}

/// Carries out what happens before the SDK is called; `None` to go on.
pub(crate) fn before_hello(plan: &str) -> Option<ExitCode> {
    let done = |result: io::Result<()>| {
        if let Err(error) = result {
            let _ = writeln!(io::stderr(), "puppet-handler: {error}");
        }
        Some(ExitCode::SUCCESS)
    };
    match plan {
        "exit" => Some(ExitCode::from(3)),
        "hang" => done(raw::wait_for_end()),
        "wrong_protocol" => done(raw::say_hello(999).and_then(|()| raw::wait_for_end())),
        "garbage" => done(raw::write(&[0xff; 64]).and_then(|()| raw::wait_for_end())),
        _ => match plan.strip_prefix("raw_") {
            Some(fault) => done(raw::run(fault)),
            None => {
                LOAD_PLAN.get_or_init(|| plan.to_owned());
                None
            }
        },
    }
}

/// A fitness check that fails with `PUPPET_CHECK=fail`.
pub(crate) fn check() -> Check {
    let test = || match std::env::var("PUPPET_CHECK").as_deref() {
        Ok("fail") => Err("the puppet is not fit, as asked".into()),
        _ => Ok("fit".to_owned()),
    };
    Check::new("puppet", test).fix("unset PUPPET_CHECK")
}

/// Carries out what happens while the model loads.
#[expect(clippy::panic, reason = "misbehaving is the purpose of this handler")]
pub(crate) fn load(env: &LoadEnv) -> Result<(), HandlerError> {
    env.report_device("cpu");
    match LOAD_PLAN.get().map_or("", String::as_str) {
        "load_fail" => Err("the puppet does not load, as asked".into()),
        "load_panic" => panic!("the puppet panics while loading, as asked"),
        "load_segv" => die_of(Signal::SEGV),
        "load_hang" => loop {
            sleep(Duration::from_secs(1));
        },
        "load_slow" => {
            let ms: u64 = std::env::var("PUPPET_LOAD_MS").map_or(Ok(1000), |ms| ms.parse())?;
            for step in 1..=STEPS {
                sleep(Duration::from_millis(ms / STEPS));
                env.progress("weights", step, STEPS);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
