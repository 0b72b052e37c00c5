//! A handler without the SDK, for faults that the SDK does not allow. It completes the handshake, loads, and answers pings and
//! jobs normally, apart from one fault, which is named after `raw_`:
//!
//! | fault | effect |
//! | --- | --- |
//! | `no_pong` | does not answer pings |
//! | `no_answer` | does not answer jobs |
//! | `segv_on_arrival` | SIGSEGV when a job arrives, before the job is started |
//! | `bad_header` | a header that is not a message before every result |
//! | `oversize_header` | a header over the limit instead of a result |
//! | `oversize_result` | a result over the limit, in a complete frame |
//! | `out_of_order` | chunks in the wrong order, and more chunks after the result |
//! | `wrong_job` | results of another job and of another attempt before the right one |
//! | `truncated` | half a result, then the end |
//! | `result_then_segv` | a whole result, then SIGSEGV |
//! | `on_gpu` | none, but it reports that its model is on `cuda:0`, and the memory of a job |
//! | `grandchild` | SIGSEGV, while a process that it has started keeps the socket open |

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use runpod_handler_protocol::records::{DEVICE_BYTES, PEAK_DEVICE_BYTES, RESERVED_DEVICE_BYTES};
use runpod_handler_protocol::{
    Decoder, MAX_PAYLOAD_LEN, Manifest, PROTOCOL_VERSION, Received, ToHandler, ToSupervisor, encode_header,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::die_of;

/// How long a grandchild runs, in seconds: longer than any test.
const GRANDCHILD_LIFE: &str = "600";

fn socket() -> io::Result<UnixStream> {
    let socket: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Reads and discards until the other side closes the connection.
pub(crate) fn wait_for_end() -> io::Result<()> {
    io::copy(&mut socket()?, &mut io::sink()).map(drop)
}

pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    socket()?.write_all(bytes)
}

pub(crate) fn say_hello(protocol: u32) -> io::Result<()> {
    let manifest = Manifest {
        name: "puppet-handler".to_owned(),
        version: "raw".to_owned(),
        idempotent: false,
        streams: true,
        input_schema: Value::Bool(true),
        output_schema: Value::Bool(true),
        chunk_schema: Some(Value::Bool(true)),
        max_batch_items: None,
        max_concurrency: None,
        max_waiting_items: None,
    };
    let hello = ToSupervisor::Hello { protocol, sdk_version: "raw".to_owned() };
    send(&hello, &serde_json::to_vec(&manifest)?)
}

fn send(message: &ToSupervisor, payload: &[u8]) -> io::Result<()> {
    let mut frame = encode_header(message, payload.len()).map_err(io::Error::other)?;
    frame.extend_from_slice(payload);
    write(&frame)
}

/// Serves jobs with one fault until the connection ends.
pub(crate) fn run(fault: &str) -> io::Result<()> {
    say_hello(PROTOCOL_VERSION)?;
    let mut socket = socket()?;
    let mut decoder = Decoder::<ToHandler>::new();
    loop {
        match decoder.next().map_err(io::Error::other)? {
            Some(Received::Message(ToHandler::Shutdown, _)) => return Ok(()),
            Some(Received::Message(message, _)) => handle(fault, message)?,
            Some(_) => {}
            None if decoder.read_from(&mut socket)? == 0 => return Ok(()),
            None => {}
        }
    }
}

fn handle(fault: &str, message: ToHandler) -> io::Result<()> {
    match message {
        ToHandler::Load { slots, .. } => {
            let device = if fault == "on_gpu" { "cuda:0" } else { "cpu" }.to_owned();
            let loaded = |slot| ToSupervisor::Loaded { slot, device: device.clone(), millis: 0, warm_up_millis: 0 };
            (0..slots).try_for_each(|slot| send(&loaded(slot), b""))
        }
        ToHandler::Ping { seq } if fault != "no_pong" => send(&ToSupervisor::Pong { seq }, b""),
        ToHandler::Run { job, attempt, .. } => answer(fault, &job, attempt),
        _ => Ok(()),
    }
}

fn answer(fault: &str, job: &str, attempt: u32) -> io::Result<()> {
    let started = ToSupervisor::Started { job: job.to_owned(), attempt, model: None };
    let chunk = |seq| send(&ToSupervisor::Chunk { job: job.to_owned(), attempt, seq }, seq.to_string().as_bytes());
    let done = |job: &str, attempt| ToSupervisor::Done {
        job: job.to_owned(),
        attempt,
        refresh: false,
        records: if fault == "on_gpu" { memory() } else { BTreeMap::new() },
    };
    let good = || send(&done(job, attempt), br#"{"ok":true}"#);
    match fault {
        "segv_on_arrival" => die_of(Signal::SEGV),
        "out_of_order" => {}
        _ => send(&started, b"")?,
    }
    match fault {
        "no_answer" => Ok(()),
        "bad_header" => {
            write(&frame_of_lengths(3, 2, b"{]}ab"))?;
            good()
        }
        "oversize_header" => write(&frame_of_lengths(1 << 20, 0, b"{")),
        "oversize_result" => oversize(&done(job, attempt)),
        "out_of_order" => {
            [2, 1].into_iter().try_for_each(chunk)?;
            good()?;
            send(&started, b"")?;
            send(&ToSupervisor::Progress { job: job.to_owned(), attempt }, b"1")?;
            chunk(3)
        }
        "wrong_job" => {
            send(&done("of-nobody", attempt), b"1")?;
            send(&done(job, attempt + 1), b"2")?;
            good()
        }
        "truncated" => {
            write(&encode_header(&done(job, attempt), 100).map_err(io::Error::other)?)?;
            write(b"half")?;
            Err(io::Error::other("ended inside a frame, as asked"))
        }
        "result_then_segv" => {
            good()?;
            die_of(Signal::SEGV)
        }
        "grandchild" => {
            let socket: OwnedFd = rustix::stdio::stdin().try_clone_to_owned()?;
            spawn_grandchild(socket.into())?;
            die_of(Signal::SEGV)
        }
        _ => good(),
    }
}

/// The values that the SDK records about a job on a GPU.
fn memory() -> BTreeMap<String, f64> {
    let figures = [(DEVICE_BYTES, 1e6), (PEAK_DEVICE_BYTES, 2e6), (RESERVED_DEVICE_BYTES, 3e6)];
    figures.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

fn frame_of_lengths(header: u32, payload: u32, body: &[u8]) -> Vec<u8> {
    [&header.to_le_bytes(), &payload.to_le_bytes(), body].concat()
}

/// Writes a whole frame whose payload is one byte over the limit.
fn oversize(message: &ToSupervisor) -> io::Result<()> {
    let mut frame = encode_header(message, 0).map_err(io::Error::other)?;
    let too_long = MAX_PAYLOAD_LEN as u32 + 1;
    frame[4..8].copy_from_slice(&too_long.to_le_bytes());
    let mut socket = socket()?;
    socket.write_all(&frame)?;
    io::copy(&mut io::repeat(b'x').take(u64::from(too_long)), &mut socket).map(drop)
}

/// Starts a process that outlives this one and keeps stdout and stderr open.
pub(crate) fn leave_grandchild() -> io::Result<()> {
    spawn_grandchild(Stdio::null())
}

#[expect(clippy::disallowed_methods, reason = "the test needs a grandchild")]
fn spawn_grandchild(stdin: Stdio) -> io::Result<()> {
    let grandchild = Command::new("sleep").arg(GRANDCHILD_LIFE).stdin(stdin).spawn()?;
    std::mem::forget(grandchild);
    Ok(())
}

/// Starts a process in a session of its own that no longer has a parent here.
#[expect(clippy::disallowed_methods, reason = "an escapee is what the test asks for")]
pub(crate) fn leave_escapee(pid_file: &Path) -> io::Result<()> {
    let script = format!("echo $$ > '{}'; exec sleep {GRANDCHILD_LIFE}", pid_file.display());
    // With --fork it ends at once.
    let status = Command::new("setsid").args(["--fork", "sh", "-c", &script]).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("setsid failed")) }
}
