//! A worker on the other end of the socket pair, which drives the handler program of a test.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{
    Decoder, ErrorReport, Manifest, PROTOCOL_VERSION, Received, StopReason, ToHandler, ToSupervisor, encode_header,
};
use serde_json::{Value, json};

use crate::Handler;
use crate::serve::{OneByOne, Program, serve_on};

/// Longest wait for one message: far longer than any step of these tests takes.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A deadline that no job of these tests reaches.
pub(super) const DEADLINE_MS: u64 = 60_000;

/// The worker's end of the connection.
pub(super) struct Worker {
    pub(super) stream: UnixStream,
    pub(super) decoder: Decoder<ToSupervisor>,
    pub(super) handler: JoinHandle<u8>,
    pub(super) manifest: Manifest,
}

impl Worker {
    pub(super) fn start<H: Handler>() -> Self {
        Self::start_program::<OneByOne<H>>()
    }

    pub(super) fn start_program<P: Program>() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(MESSAGE_TIMEOUT)).unwrap();
        let handler = std::thread::spawn(|| serve_on::<P>(theirs, || {}));
        let manifest = Manifest {
            name: String::new(),
            version: String::new(),
            idempotent: false,
            streams: false,
            input_schema: Value::Null,
            output_schema: Value::Null,
            chunk_schema: None,
            max_batch_items: None,
            max_concurrency: None,
            max_waiting_items: None,
        };
        let mut this = Self { stream: ours, decoder: Decoder::new(), handler, manifest };
        let (hello, payload) = this.receive();
        assert!(matches!(hello, ToSupervisor::Hello { protocol: PROTOCOL_VERSION, .. }), "{hello:?}");
        this.manifest = serde_json::from_slice(&payload).unwrap();
        this
    }

    pub(super) fn hello(&mut self, protocol: u32) {
        self.send(
            &ToHandler::Hello { protocol, worker_version: "0.1.0".into(), processes: 1, batch_reports: false },
            b"",
        );
    }

    pub(super) fn order_load(&mut self, slots: u32, device: &str, chunk_window: u32) {
        self.hello(PROTOCOL_VERSION);
        self.send(&ToHandler::Load { worker_id: "w1".into(), slots, device: device.into(), chunk_window }, b"");
    }

    /// A loaded program that was asked to report batches and steps.
    pub(super) fn reporting<P: Program>() -> Self {
        let mut this = Self::start_program::<P>();
        let worker_version = "0.1.0".into();
        let hello = ToHandler::Hello { protocol: PROTOCOL_VERSION, worker_version, processes: 1, batch_reports: true };
        this.send(&hello, b"");
        let load = ToHandler::Load { worker_id: "w1".into(), slots: 1, device: "auto".into(), chunk_window: 4 };
        this.send(&load, b"");
        this.receive_until(|message| matches!(message, ToSupervisor::Loaded { .. }));
        this
    }

    /// A handler with loaded slots.
    pub(super) fn loaded<H: Handler>(slots: u32, chunk_window: u32) -> Self {
        let mut this = Self::start::<H>();
        this.order_load(slots, "auto", chunk_window);
        for _ in 0..slots {
            this.receive_until(|message| matches!(message, ToSupervisor::Loaded { .. }));
        }
        this
    }

    pub(super) fn send(&mut self, message: &ToHandler, payload: &[u8]) {
        let mut frame = encode_header(message, payload.len()).unwrap();
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).unwrap();
    }

    pub(super) fn run(&mut self, job: &str, input: &Value) {
        self.run_on(0, job, DEADLINE_MS, &json!({"id": job, "input": input}));
    }

    pub(super) fn run_on(&mut self, slot: u32, job: &str, deadline_ms: u64, envelope: &Value) {
        let run = ToHandler::Run {
            job: job.into(),
            attempt: 1,
            slot,
            deadline_ms,
            traceparent: Some("00-abc-def-01".into()),
        };
        self.send(&run, envelope.to_string().as_bytes());
    }

    pub(super) fn cancel(&mut self, job: &str, attempt: u32) {
        self.send(&ToHandler::Stop { job: job.into(), attempt, reason: StopReason::Cancelled }, b"");
    }

    pub(super) fn receive(&mut self) -> (ToSupervisor, Bytes) {
        loop {
            match self.decoder.next().unwrap() {
                Some(Received::Message(message, payload)) => return (message, payload),
                Some(other) => panic!("unexpected {other:?}"),
                None => assert_ne!(self.decoder.read_from(&mut self.stream).expect("a message in time"), 0, "closed"),
            }
        }
    }

    pub(super) fn receive_until(&mut self, wanted: impl Fn(&ToSupervisor) -> bool) -> (ToSupervisor, Bytes) {
        loop {
            let (message, payload) = self.receive();
            if wanted(&message) {
                return (message, payload);
            }
        }
    }

    pub(super) fn started(&mut self) {
        let (message, _) = self.receive();
        assert!(matches!(message, ToSupervisor::Started { .. }), "{message:?}");
    }

    pub(super) fn output(&mut self) -> Value {
        let (message, payload) = self.receive_until(is_final);
        assert!(matches!(message, ToSupervisor::Done { .. }), "{message:?} {payload:?}");
        serde_json::from_slice(&payload).unwrap()
    }

    /// The report of a failed job, and whether the slot reloads.
    pub(super) fn failure(&mut self) -> (ErrorReport, bool) {
        match self.receive_until(is_final) {
            (ToSupervisor::Failed { reloading, .. }, report) => (serde_json::from_slice(&report).unwrap(), reloading),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(super) fn shut_down(mut self) -> u8 {
        self.send(&ToHandler::Shutdown, b"");
        self.handler.join().unwrap()
    }
}

pub(super) fn is_final(message: &ToSupervisor) -> bool {
    matches!(message, ToSupervisor::Done { .. } | ToSupervisor::Failed { .. })
}
