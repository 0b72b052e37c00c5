//! A handler program: from its arguments to its exit status.

mod batching;
mod checks;
#[cfg(feature = "async")]
mod concurrent;
mod connection;
mod control;
mod exit;
mod fitness;
mod job_memory;
mod loading;
mod pooled;
mod program;
mod reply;
mod signals;
mod slot;
mod stepping;
#[cfg(test)]
mod tests;
mod uploads;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::fs::FileType;
use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group, kill_process};

pub(crate) use self::batching::Batched;
#[cfg(feature = "async")]
pub(crate) use self::concurrent::Concurrent;
pub(crate) use self::connection::{serve_in_test, serve_on};
pub use self::exit::{EXIT_DEVICE_LOST, EXIT_LOAD_FAILED, EXIT_PROTOCOL, EXIT_USAGE};
pub(crate) use self::program::Program;
pub(crate) use self::slot::OneByOne;
pub(crate) use self::stepping::Stepped;
#[cfg(feature = "async")]
use crate::async_handler::AsyncHandler;
use crate::batch::BatchHandler;
use crate::handler::Handler;
use crate::manifest::program_name;
use crate::step::StepHandler;
use crate::text::log;

/// Runs the handler under a worker. This is the whole `main` of a handler program.
///
/// The worker starts the program with a socket as its standard input. With the argument `--manifest` the program prints its
/// name, version and JSON Schemas and exits with 0. Without a socket it prints how to start it and exits with [`EXIT_USAGE`].
/// When the worker exits, for whatever reason, this process is killed at once, whatever the handler is doing.
/// SIGHUP, SIGINT, SIGQUIT and SIGTERM do not end it: what they mean is the worker's decision, which may let the job finish.
///
/// The exit status is 0 after a shutdown, otherwise [`EXIT_LOAD_FAILED`] or [`EXIT_PROTOCOL`].
pub fn serve<H: Handler>() -> ExitCode {
    run_program::<OneByOne<H>>()
}

/// Runs a handler that takes several jobs at once; otherwise as [`serve`]. The exit status can also be [`EXIT_DEVICE_LOST`].
pub fn serve_batch<B: BatchHandler>() -> ExitCode {
    run_program::<Batched<B>>()
}

/// Runs a handler that advances several jobs step by step; otherwise as [`serve_batch`].
pub fn serve_step<H: StepHandler>() -> ExitCode {
    run_program::<Stepped<H>>()
}

/// Runs a handler whose jobs are futures; otherwise as [`serve`].
#[cfg(feature = "async")]
pub fn serve_async<H: AsyncHandler>() -> ExitCode {
    run_program::<Concurrent<H>>()
}

fn run_program<P: Program>() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--manifest") {
        return print_manifest::<P>();
    }
    match take_socket() {
        Ok(Some(stream)) => {
            if let Err(error) = signals::leave_to_worker() {
                log(format_args!("signals to end cannot be caught, and will end this process: {error}"));
            }
            #[cfg(feature = "tracing")]
            crate::events::install();
            ExitCode::from(serve_on::<P>(stream, kill_self))
        }
        Ok(None) => {
            let name = program_name();
            let usage = format!(
                "{name} is a handler, which runpod-worker starts: on its own it does nothing.\n\
                 Run it:  runpod-worker run -- ./{name}    One job:  runpod-worker test --input job.json -- ./{name}\n\
                 Try it with a local queue and API:  runpod-endpoint dev -- ./{name}\n"
            );
            let _ = io::stderr().write_all(usage.as_bytes());
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            log(format_args!("the socket on standard input cannot be used: {error}"));
            ExitCode::from(EXIT_PROTOCOL)
        }
    }
}

/// Moves the socket off standard input and puts `/dev/null` there, so that user code that reads standard input finds its end
/// instead of the protocol. `None` when standard input is not a socket.
fn take_socket() -> io::Result<Option<UnixStream>> {
    let stdin = rustix::stdio::stdin();
    if FileType::from_raw_mode(rustix::fs::fstat(stdin)?.st_mode) != FileType::Socket {
        return Ok(None);
    }
    // Close-on-exec: a program that user code starts would otherwise keep the connection open after this process exits.
    let socket: OwnedFd = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(Some(stream))
}

/// Kills this process and the processes that it has started, without running any more of its code.
fn kill_self() {
    if getpgrp() == getpid() {
        let _ = kill_current_process_group(Signal::KILL);
    }
    let _ = kill_process(getpid(), Signal::KILL);
}

fn print_manifest<P: Program>() -> ExitCode {
    let printed = serde_json::to_string_pretty(&P::manifest())
        .map_err(io::Error::other)
        .and_then(|text| writeln!(io::stdout(), "{text}"));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(format_args!("the manifest cannot be printed: {error}"));
            ExitCode::FAILURE
        }
    }
}
