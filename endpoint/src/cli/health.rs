//! `health`, once or repeatedly.

use std::time::SystemTime;

use serde_json::{Map, Value};
use tokio::time::sleep;

use super::args::HealthArgs;
use super::ask::note_retry;
use super::exit::Exit;
use super::http::Endpoint;
use super::outcome::CommandResult;
use super::output::Output;

pub(crate) async fn health(args: &HealthArgs, output: &mut Output) -> CommandResult {
    let endpoint = Endpoint::new(&args.target.server)?;
    if args.watch {
        return watch(&endpoint, args, output).await;
    }
    let reply = endpoint.get("health").await?;
    if args.target.json {
        output.line(reply.trim_end());
        return Ok(Exit::Success);
    }
    for (group, counters) in serde_json::from_str::<Map<String, Value>>(&reply)? {
        output.line(&format!("{group:<8} {}", counters_text(&counters)));
    }
    Ok(Exit::Success)
}

/// Prints a line for the first answer and for each one that differs from the one before. After the first answer, temporary
/// failures are reported once and retried.
async fn watch(endpoint: &Endpoint, args: &HealthArgs, output: &mut Output) -> CommandResult {
    let mut last: Option<Map<String, Value>> = None;
    let mut is_failing = false;
    while !output.is_closed() {
        match endpoint.get("health").await {
            Ok(reply) => {
                is_failing = false;
                let health: Map<String, Value> = serde_json::from_str(&reply)?;
                if last.as_ref() != Some(&health) {
                    output.line(&line(&health, args.target.json));
                    last = Some(health);
                }
            }
            Err(error) if error.is_temporary() && last.is_some() => {
                if !is_failing {
                    note_retry(&error, output);
                }
                is_failing = true;
            }
            Err(error) => return Err(error.into()),
        }
        sleep(args.interval).await;
    }
    Ok(Exit::Success)
}

fn line(health: &Map<String, Value>, as_json: bool) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    if as_json {
        let mut document = health.clone();
        document.insert("timestamp".to_owned(), Value::from(time));
        return Value::Object(document).to_string();
    }
    let groups: Vec<_> =
        health.iter().map(|(group, counters)| format!("{group}: {}", counters_text(counters))).collect();
    format!("{time}  {}", groups.join("    "))
}

fn counters_text(counters: &Value) -> String {
    let Some(counters) = counters.as_object() else { return counters.to_string() };
    let text: Vec<_> = counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    text.join("  ")
}
