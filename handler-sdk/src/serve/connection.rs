//! One connection to the worker: its threads, from the first message to the exit status.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use runpod_handler_protocol::{PROTOCOL_VERSION, ToSupervisor, encode_header};

use crate::fake_device::FakeDevice;
use crate::panics;
use crate::send_queue::SendQueue;
use crate::serve::control::Control;
use crate::serve::exit::{EXIT_DEVICE_LOST, EXIT_LOAD_FAILED, EXIT_PROTOCOL, Exit};
use crate::serve::program::Program;
use crate::text::log;

/// How long the process waits at its end for the last messages to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Capacity of the channel of exits: more than can arrive before the first is read. Only the first is used.
const EXIT_CAPACITY: usize = 8;

/// Serves one connection and returns the exit status. `on_disconnect` is called on the thread that notices the end of the
/// connection.
pub(crate) fn serve_on<P: Program>(stream: UnixStream, on_disconnect: fn()) -> u8 {
    serve_with::<P>(stream, SendQueue::default(), None, on_disconnect)
}

/// As [`serve_on`], but no progress is replaced by newer progress, and the models have this device.
pub(crate) fn serve_in_test<P: Program>(stream: UnixStream, device: Option<FakeDevice>) -> u8 {
    serve_with::<P>(stream, SendQueue::with_all_progress(), device, || {})
}

fn serve_with<P: Program>(
    stream: UnixStream,
    queue: SendQueue,
    fake_device: Option<FakeDevice>,
    on_disconnect: fn(),
) -> u8 {
    panics::install_hook();
    let (exit, exits) = sync_channel(EXIT_CAPACITY);
    let queue = Arc::new(queue);
    let control = Control::new(Arc::clone(&queue), exit.clone(), fake_device);
    let started = start_threads::<P>(stream, &queue, control, exit, on_disconnect);
    let status = match started.map(|()| exits.recv().unwrap_or(Exit::Disconnected)) {
        Ok(Exit::Shutdown(slots)) => {
            for slot in slots {
                let _ = slot.join();
            }
            0
        }
        Ok(Exit::LoadFailed) => EXIT_LOAD_FAILED,
        Ok(Exit::DeviceLost) => EXIT_DEVICE_LOST,
        Ok(Exit::Protocol(reason)) => {
            log(format_args!("{reason}"));
            EXIT_PROTOCOL
        }
        Ok(Exit::Disconnected) => EXIT_PROTOCOL,
        Err(error) => {
            log(format_args!("the handler cannot start: {error}"));
            EXIT_PROTOCOL
        }
    };
    if !queue.flush(FLUSH_TIMEOUT) {
        log(format_args!("the last messages did not reach the worker"));
    }
    queue.close();
    status
}

fn start_threads<P: Program>(
    mut stream: UnixStream,
    queue: &Arc<SendQueue>,
    control: Control,
    exit: SyncSender<Exit>,
    on_disconnect: fn(),
) -> io::Result<()> {
    // Written before the writer thread starts, so that it is the first message.
    let hello = ToSupervisor::Hello { protocol: PROTOCOL_VERSION, sdk_version: env!("CARGO_PKG_VERSION").to_owned() };
    let payload = serde_json::to_vec(&P::manifest())?;
    let header = encode_header(&hello, payload.len()).map_err(io::Error::other)?;
    stream.write_all(&header)?;
    stream.write_all(&payload)?;

    queue.attach(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    let frames = Arc::clone(queue);
    let writer_exit = exit.clone();
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        if frames.write_to(&mut writer).is_err() {
            on_disconnect();
            let _ = writer_exit.try_send(Exit::Disconnected);
        }
    })?;

    thread::Builder::new().name("control".to_owned()).spawn(move || {
        let reason = control.run::<P>(&mut stream);
        if matches!(reason, Exit::Disconnected) {
            on_disconnect();
        }
        let _ = exit.try_send(reason);
    })?;
    Ok(())
}
