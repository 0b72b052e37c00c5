//! `runpod-worker check`: every fitness check, each with its outcome and what to do about a failure. No job is taken and no
//! model is loaded.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{CheckOrder, CheckReport, PROTOCOL_VERSION, ToHandler, ToSupervisor};
use tokio::sync::mpsc;

use super::{complain, configure, print, start_log};
use crate::checks;
use crate::config::{Config, RunArgs};
use crate::process::{HandlerCommand, Processes};
use runpod_worker_core::{Event, Incarnation, ProcessEvent, ProcessId, linker};

/// Name of the report about the handler process itself.
const HANDLER: &str = "handler";
/// The only handler process of this command.
const PROCESS: ProcessId = ProcessId(0);

/// Prints all checks. Exit status 0 when none failed, else 1; 64 for a wrong configuration.
pub(super) async fn check_command(args: &RunArgs) -> ExitCode {
    let config = match configure(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let _log = match start_log(&config, None, std::io::stderr()) {
        Ok(guard) => guard,
        Err(code) => return code,
    };
    let mut reports = checks::run(&config.checks).await;
    reports.extend(check_handler(&config).await);
    let printed = print(table(&reports).trim_end());
    let failed = reports.iter().filter(|report| report.is_failure()).count();
    match failed {
        0 => printed,
        1 => complain(1, "1 check failed: this worker would not take jobs"),
        _ => complain(1, &format!("{failed} checks failed: this worker would not take jobs")),
    }
}

/// One line for each check, and one for the fix of a failure.
fn table(reports: &[CheckReport]) -> String {
    let width = reports.iter().map(|report| report.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for CheckReport { name, status, detail, fix } in reports {
        let _ = writeln!(text, "{status:7}  {name:width$}  {}", detail.replace('\n', " "));
        if !fix.is_empty() {
            let _ = writeln!(text, "{:9}{:width$}  fix: {fix}", "", "");
        }
    }
    text
}

/// Starts the handler, makes its checks and ends it again.
async fn check_handler(config: &Config) -> Vec<CheckReport> {
    let Some(order) = config.policy.checks.clone() else { return Vec::new() };
    let handler = config.handler.clone();
    let command = HandlerCommand { program: handler.program, args: handler.args, env: Vec::new() };
    let (events, inbox) = mpsc::channel(16);
    let mut processes = Processes::new(command, events);
    processes.spawn(PROCESS, Incarnation(1));
    let limit = config.policy.handshake_timeout + config.policy.load_stall_timeout;
    let process_count = u32::try_from(config.policy.processes).unwrap_or(u32::MAX);
    let result = tokio::time::timeout(limit, request_checks(&mut processes, inbox, &order, process_count)).await;
    processes.kill(PROCESS);
    match result.unwrap_or_else(|_| Err(too_late(limit))) {
        Ok(reports) => reports,
        Err(report) => vec![report],
    }
}

fn too_late(limit: Duration) -> CheckReport {
    CheckReport::failed(
        HANDLER,
        format!("its checks did not end within {limit:?}"),
        "is it built with runpod-handler-sdk? See its log above, or raise --load-stall-timeout",
    )
}

/// Returns the reports of the handler's own checks and those of the device; an error is a report about the handler itself.
async fn request_checks(
    processes: &mut Processes,
    mut inbox: mpsc::Receiver<Event>,
    order: &CheckOrder,
    process_count: u32,
) -> Result<Vec<CheckReport>, CheckReport> {
    const REBUILD: &str = "build it with the runpod-handler-sdk of this worker's version";
    while let Some(event) = inbox.recv().await {
        let Event::Process { event, .. } = event else { continue };
        match event {
            ProcessEvent::SpawnFailed { reason, .. } => return Err(CheckReport::failed(HANDLER, reason, "")),
            ProcessEvent::Exited(exit) => {
                let fix = linker::advice(&exit).unwrap_or_else(|| "see its log above".to_owned());
                return Err(CheckReport::failed(HANDLER, format!("it ended with {}", exit.status), fix));
            }
            ProcessEvent::BadFrame { reason } => return Err(CheckReport::failed(HANDLER, reason, REBUILD)),
            ProcessEvent::Message { message: ToSupervisor::Hello { protocol, .. }, .. } => {
                if protocol != PROTOCOL_VERSION {
                    let reason = format!("it speaks protocol {protocol}, this worker speaks {PROTOCOL_VERSION}");
                    return Err(CheckReport::failed(HANDLER, reason, REBUILD));
                }
                let worker_version = env!("CARGO_PKG_VERSION").to_owned();
                let hello = ToHandler::Hello {
                    protocol: PROTOCOL_VERSION,
                    worker_version,
                    processes: process_count,
                    batch_reports: false,
                };
                processes.send(PROCESS, &hello, Bytes::new());
                processes.send(PROCESS, &ToHandler::Check(order.clone()), Bytes::new());
            }
            ProcessEvent::Message { message: ToSupervisor::Checked, payload } => {
                return serde_json::from_slice(&payload).map_err(|error| {
                    CheckReport::failed(HANDLER, format!("its answer cannot be read: {error}"), REBUILD)
                });
            }
            ProcessEvent::Spawned { .. }
            | ProcessEvent::Message { .. }
            | ProcessEvent::Memory { .. }
            | ProcessEvent::Oversize { .. } => {}
        }
    }
    Err(CheckReport::failed(HANDLER, "it ended without an answer", REBUILD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_and_a_failure_has_its_fix() {
        let reports = [
            CheckReport::ok("memory", "12.0 GiB available"),
            CheckReport::skipped("network", "not asked for with --check-network"),
            CheckReport::failed("gpu_memory", "too\nsmall", "use another GPU"),
        ];
        insta::assert_snapshot!(table(&reports), @r"
        ok       memory      12.0 GiB available
        skipped  network     not asked for with --check-network
        FAILED   gpu_memory  too small
                             fix: use another GPU
        ");
    }
}
