//! How long the handler loads its model, beside a bare program that reads the same file into the same model with libtorch's own
//! functions: from the start of the process until the model is there, without its warm-up.
//!
//! Run it with `cargo bench --package text-embeddings --bench load [-- ROUNDS]`. Both start in turns; the file is in the memory of the kernel.
#![expect(clippy::print_stdout, reason = "a benchmark prints its measurements")]
#![expect(clippy::disallowed_methods, reason = "a benchmark starts what it measures")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use runpod_handler_protocol::{Decoder, PROTOCOL_VERSION, Received, ToHandler, ToSupervisor, encode_header};
use tch::Device;
use text_embeddings::{Encoder, ModelError, Precision};

/// The argument that makes this the bare program.
const BARE: &str = "--bare";
const ROUNDS: usize = 15;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/all-MiniLM-L6-v2")
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == BARE) {
        return bare();
    }
    let rounds = arguments.first().map_or(Ok(ROUNDS), |text| text.parse())?;
    let (mut bare, mut handler) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let times = (time_of_bare()?, time_of_handler()?);
        // The first one reads the file from the disk.
        if round > 0 {
            bare.push(times.0);
            handler.push(times.1);
        }
    }
    let [bare, handler] = [bare, handler].map(|mut times| {
        times.sort_unstable();
        (times[0], times[times.len() / 2])
    });
    println!("from the start of the process to the loaded model; median, and the least, of {rounds}:");
    for (name, (least, median)) in [("bare program", bare), ("text-embeddings", handler)] {
        println!("{name:<16} {:>7.1} ms  {:>7.1} ms", median.as_secs_f64() * 1000.0, least.as_secs_f64() * 1000.0);
    }
    println!("ratio {:.2} (target 1.1)", handler.1.as_secs_f64() / bare.1.as_secs_f64());
    Ok(())
}

/// Loads the model and says so.
fn bare() -> anyhow::Result<()> {
    let encoder = Encoder::load(&model(), Device::Cpu, Precision::F32, |variables, path| {
        variables.load(path).map_err(ModelError::from)
    })?;
    println!("{}", encoder.dimensions());
    Ok(())
}

fn time_of_bare() -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut program = Command::new(std::env::current_exe()?).arg(BARE).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(program.stdout.take().context("no output")?).read_line(&mut line)?;
    let time = begun.elapsed();
    end(program)?;
    if line.trim().is_empty() {
        bail!("the bare program could not load the model");
    }
    Ok(time)
}

fn time_of_handler() -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let (mut socket, theirs) = UnixStream::pair()?;
    let program = Command::new(env!("CARGO_BIN_EXE_text-embeddings"))
        .env("TEXT_EMBEDDINGS_MODEL_DIR", model())
        .stdin(OwnedFd::from(theirs))
        .spawn()?;
    let hello = ToHandler::Hello {
        protocol: PROTOCOL_VERSION,
        worker_version: "bench".to_owned(),
        processes: 1,
        batch_reports: false,
    };
    let load = ToHandler::Load { worker_id: "bench".to_owned(), slots: 1, device: "cpu".to_owned(), chunk_window: 32 };
    for message in [hello, load] {
        socket.write_all(&encode_header(&message, 0)?)?;
    }
    let mut decoder = Decoder::<ToSupervisor>::new();
    let warm_up = loop {
        match decoder.next()? {
            Some(Received::Message(ToSupervisor::Loaded { warm_up_millis, .. }, _)) => break warm_up_millis,
            Some(Received::Message(ToSupervisor::LoadFailed { .. }, reason)) => {
                bail!("{}", String::from_utf8_lossy(&reason))
            }
            Some(_) => {}
            None if decoder.read_from(&mut socket)? == 0 => bail!("the handler ended"),
            None => {}
        }
    };
    let time = begun.elapsed() - Duration::from_millis(warm_up);
    drop(socket);
    end(program)?;
    Ok(time)
}

/// Ends a program that has done what it was started for.
fn end(mut program: Child) -> anyhow::Result<()> {
    let _ = program.kill();
    program.wait()?;
    Ok(())
}
