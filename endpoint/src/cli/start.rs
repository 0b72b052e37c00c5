//! What `serve` and `dev` do first: check the settings, start the log, open the server, plan the workers.

use runpod_log_line::LogGuard;

use super::args::ListenArgs;
use super::effective::Effective;
use super::exit::Exit;
use super::log;
use super::open::{Extra, Opened, check, open};
use super::output::Output;
use super::signals::{self, StopRequests};
use super::workers;
use crate::fleet::Pool;

/// A server that is ready to run.
pub(crate) struct Started {
    pub(crate) opened: Opened,
    /// The local workers to start.
    pub(crate) pools: Vec<Pool>,
    /// The requests to stop.
    pub(crate) stops: StopRequests,
    /// Writes the log as long as it is kept.
    pub(crate) log: LogGuard,
}

/// Starts everything but the server and its workers. The error is the exit status, once its reason is printed; with `--check-config`
/// it is the end.
pub(crate) async fn start(
    listen: &ListenArgs,
    extra: &Extra<'_>,
    mut effective: Effective,
    output: &mut Output,
) -> Result<Started, Exit> {
    let checked = check(listen, extra, &effective).map_err(|error| output.fail(&error, error.exit()))?;
    effective.complete(&checked.config);
    if listen.check_config {
        effective.lines().for_each(|line| output.line(&line));
        return Err(Exit::Success);
    }
    let filter = std::env::var("RUST_LOG").ok().filter(|_| effective.is_default("log-level"));
    let log = log::start(listen.log, filter.as_deref()).map_err(|error| {
        let fix = "raise the limit on processes (ulimit -u)";
        output.fail(&format!("the thread that writes the log cannot be started: {error}; {fix}"), Exit::Failure)
    })?;
    effective.lines().for_each(|line| tracing::debug!("{line}"));
    // Before anything is started that a stop has to end in order.
    let mut stops = StopRequests::watch().map_err(|error| output.fail(&signals::unwatched(&error), Exit::Failure))?;
    let opened = tokio::select! {
        opened = open(checked, listen, extra) => opened.map_err(|error| output.fail(&error, error.exit()))?,
        // It may wait for a database.
        () = stops.next() => return Err(Exit::Success),
    };
    let pools = workers::pools(&opened, extra, listen, &effective).map_err(|error| output.fail(&error, Exit::Usage))?;
    Ok(Started { opened, pools, stops, log })
}
