//! The defaults that `--help` names are those in effect.

use std::collections::BTreeMap;

use end_to_end_tests::{binary, run_tool};

/// Defaults that are described in words, because they depend on the machine or on another flag.
const IN_WORDS: &[&str] = &["spool-dir", "listen"];
/// The flags of RunPod's Python worker lead to other commands and are no settings.
const OF_PYTHON: &str = "rp_";

/// What a program prints and how it exits.
fn run(program: &str, args: &[&str]) -> String {
    let output = run_tool(&binary(program).to_string_lossy(), args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The default of each flag that has one, as `--help` names it.
fn defaults_in_help(program: &str, command: &str) -> BTreeMap<String, String> {
    let mut texts: Vec<(String, String)> = Vec::new();
    for line in run(program, &[command, "--help"]).lines() {
        let flag =
            line.trim_start().split(' ').find_map(|word| word.strip_prefix("--").filter(|flag| !flag.is_empty()));
        let is_heading = line.trim_start().starts_with('-') && line.len() - line.trim_start().len() <= 6;
        match (flag, texts.last_mut()) {
            (Some(flag), _) if is_heading => texts.push((flag.to_owned(), String::new())),
            (_, Some((_, text))) => text.extend([line.trim(), " "]),
            _ => {}
        }
    }
    let default = |text: &str| Some(text.split_once("[default: ")?.1.split_once(']')?.0.trim().to_owned());
    texts.into_iter().filter_map(|(flag, text)| Some((flag, default(&text)?))).collect()
}

/// The values that `--check-config` prints.
fn effective(program: &str, command: &str, flags: &[&str]) -> BTreeMap<String, String> {
    let args = [&[command, "--check-config"], flags, &["--", "/bin/true"]].concat();
    let text = run(program, &args);
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let value = value.rsplit_once(" (").map_or(value, |(value, _)| value);
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(value).collect()
}

/// Every default of the help, given as a flag, changes nothing.
fn assert_defaults(program: &str, command: &str) {
    let named = defaults_in_help(program, command);
    assert!(named.len() > 10, "{command} --help has other words for its defaults: {named:?}");
    let untouched = effective(program, command, &[]);
    let mut given = Vec::new();
    for (flag, default) in &named {
        if IN_WORDS.contains(&flag.as_str()) || flag.starts_with(OF_PYTHON) {
            continue;
        }
        let shown = untouched.get(flag).unwrap_or_else(|| panic!("--check-config does not show --{flag}"));
        // An explanation follows the value.
        let value = default.split([',', ';']).next().unwrap_or_default();
        if ["none", "not set"].contains(&value) {
            assert!(
                ["none", "not set", "default"].contains(&shown.as_str()),
                "--{flag} is {shown}, --help says {default}"
            );
        } else {
            given.push(format!("--{flag}={value}"));
        }
    }
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let explicit = effective(program, command, &given);
    for flag in named.keys() {
        assert_eq!(explicit.get(flag), untouched.get(flag), "{command} --{flag}: --help says {}", named[flag]);
    }
}

#[test]
fn the_worker_has_the_defaults_that_its_help_names() {
    assert_defaults("runpod-worker", "run");
    assert_defaults("runpod-worker", "serve");
}

#[test]
fn the_endpoint_has_the_defaults_that_its_help_names() {
    assert_defaults("runpod-endpoint", "serve");
    assert_defaults("runpod-endpoint", "dev");
}
