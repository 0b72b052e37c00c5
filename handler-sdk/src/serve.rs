//! A handler program from its first act to its exit status.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use runpod_handler_protocol::{PROTOCOL_VERSION, ToSupervisor, encode_header};
use rustix::fs::FileType;
use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group, kill_process};

use crate::control::Control;
use crate::handler::{Handler, manifest, program_name};
use crate::outgoing::Outgoing;
use crate::panics;
use crate::text::log;

/// Exit status of a handler that could not load its model. The worker has been told why.
pub const EXIT_LOAD_FAILED: u8 = 1;
/// Exit status of a handler that was started by hand.
pub const EXIT_USAGE: u8 = 64;
/// Exit status of a handler that does not understand the worker: another protocol number, or bytes that are no frame.
pub const EXIT_PROTOCOL: u8 = 65;

/// How long the last messages may take to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// More events than can come before the first is read; later ones change nothing.
const END_EVENTS: usize = 8;

/// How the process comes to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// Asked to; these are the slots that may still run a job.
    Shutdown(Vec<JoinHandle<()>>),
    LoadFailed,
    Protocol(String),
    /// The supervisor is gone.
    Disconnected,
}

/// Runs the handler under a worker; the whole of a handler program's `main`.
///
/// The worker starts the program with a socket as its standard input. Started by hand the program says how to start it and
/// ends with [`EXIT_USAGE`]; with `--manifest` it prints its name, version and JSON Schemas and ends with 0. When the worker
/// dies, so does this process, at once and whatever the handler is doing.
///
/// Ends with 0 after a shutdown, otherwise with [`EXIT_LOAD_FAILED`] or [`EXIT_PROTOCOL`].
pub fn serve<H: Handler>() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--manifest") {
        return print_manifest::<H>();
    }
    match take_socket() {
        Ok(Some(stream)) => {
            #[cfg(feature = "tracing")]
            crate::events::install();
            ExitCode::from(serve_on::<H>(stream, die))
        }
        Ok(None) => {
            let name = program_name();
            let usage = format!(
                "{name} is a handler for runpod-worker, which starts it: it does nothing by itself.\n\
                 Run it:  runpod-worker run -- ./{name}    One job:  runpod-worker test --input job.json -- ./{name}\n\
                 Try it with a local queue and API:  runpod-endpoint dev -- ./{name}\n"
            );
            let _ = io::stderr().write_all(usage.as_bytes());
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            log(format_args!("the socket on standard input cannot be taken over: {error}"));
            ExitCode::from(EXIT_PROTOCOL)
        }
    }
}

/// Serves one connection and says with which status to exit. `on_disconnect` is called on the thread that notices.
pub(crate) fn serve_on<H: Handler>(stream: UnixStream, on_disconnect: fn()) -> u8 {
    panics::install_hook();
    let (end, ended) = sync_channel(END_EVENTS);
    let outgoing = Arc::new(Outgoing::default());
    let started = start_threads::<H>(stream, &outgoing, end, on_disconnect);
    let status = match started.map(|()| ended.recv().unwrap_or(End::Disconnected)) {
        Ok(End::Shutdown(slots)) => {
            for slot in slots {
                let _ = slot.join();
            }
            0
        }
        Ok(End::LoadFailed) => EXIT_LOAD_FAILED,
        Ok(End::Protocol(why)) => {
            log(format_args!("{why}"));
            EXIT_PROTOCOL
        }
        Ok(End::Disconnected) => EXIT_PROTOCOL,
        Err(error) => {
            log(format_args!("the handler cannot start: {error}"));
            EXIT_PROTOCOL
        }
    };
    if !outgoing.flush(FLUSH_LIMIT) {
        log(format_args!("the last messages did not reach the worker"));
    }
    outgoing.close();
    status
}

fn start_threads<H: Handler>(
    mut stream: UnixStream,
    outgoing: &Arc<Outgoing>,
    end: std::sync::mpsc::SyncSender<End>,
    on_disconnect: fn(),
) -> io::Result<()> {
    // Before the writer starts, so that nothing can overtake it.
    let hello = ToSupervisor::Hello { protocol: PROTOCOL_VERSION, sdk_version: env!("CARGO_PKG_VERSION").to_owned() };
    let payload = serde_json::to_vec(&manifest::<H>())?;
    let header = encode_header(&hello, payload.len()).map_err(io::Error::other)?;
    stream.write_all(&header)?;
    stream.write_all(&payload)?;

    let mut writer = stream.try_clone()?;
    let queue = Arc::clone(outgoing);
    let lost = end.clone();
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        if queue.write_to(&mut writer).is_err() {
            on_disconnect();
            let _ = lost.try_send(End::Disconnected);
        }
    })?;

    let control = Control::new(Arc::clone(outgoing), end.clone());
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        let ended = control.run::<H>(&mut stream);
        if matches!(ended, End::Disconnected) {
            on_disconnect();
        }
        let _ = end.try_send(ended);
    })?;
    Ok(())
}

/// Moves the socket off standard input and puts `/dev/null` there, so that user code that reads its input finds the end of
/// it and not the protocol. `None` when standard input is no socket.
fn take_socket() -> io::Result<Option<UnixStream>> {
    let stdin = rustix::stdio::stdin();
    if FileType::from_raw_mode(rustix::fs::fstat(stdin)?.st_mode) != FileType::Socket {
        return Ok(None);
    }
    // Not inherited by programs that user code starts: a grandchild would keep the connection open after our end.
    let socket: OwnedFd = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(Some(stream))
}

/// Ends this process, and what it has started, without running a line of its code.
fn die() {
    if getpgrp() == getpid() {
        let _ = kill_current_process_group(Signal::KILL);
    }
    let _ = kill_process(getpid(), Signal::KILL);
}

fn print_manifest<H: Handler>() -> ExitCode {
    let printed = serde_json::to_string_pretty(&manifest::<H>())
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
