//! The SDK in a real process: start, signals, exit status and output.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use runpod_handler_protocol::{
    Decoder, ErrorKind, ErrorReport, FrameError, MAX_PAYLOAD_LEN, Manifest, PROTOCOL_VERSION, Received, ToHandler,
    ToSupervisor, encode_header,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

/// Longest wait for one message or an exit: far longer than any step of these tests takes.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;

struct Puppet {
    child: Child,
    stream: UnixStream,
    decoder: Decoder<ToSupervisor>,
}

#[expect(clippy::disallowed_methods, reason = "the one place of these tests that starts a process")]
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppet-handler"));
    command.env_remove("PUPPET_START").env_remove("PUPPET_ONCE").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Puppet {
    fn start(plan: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
        // Non-blocking, as the sockets of tokio are.
        theirs.set_nonblocking(true).unwrap();
        let child = command().env("PUPPET_START", plan).stdin(OwnedFd::from(theirs)).spawn().unwrap();
        Self { child, stream: ours, decoder: Decoder::new() }
    }

    fn loaded(plan: &str) -> Self {
        let mut this = Self::start(plan);
        let (hello, _) = this.message();
        assert!(matches!(hello, ToSupervisor::Hello { .. }), "{hello:?}");
        this.send(
            &ToHandler::Hello {
                protocol: PROTOCOL_VERSION,
                worker_version: "0.1.0".into(),
                processes: 1,
                batch_reports: true,
            },
            b"",
        );
        let load = ToHandler::Load { worker_id: "w1".into(), slots: 1, device: "auto".into(), chunk_window: 8 };
        this.send(&load, b"");
        while !matches!(this.message().0, ToSupervisor::Loaded { .. }) {}
        this
    }

    fn send(&mut self, message: &ToHandler, payload: &[u8]) {
        let mut frame = encode_header(message, payload.len()).unwrap();
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).unwrap();
    }

    fn run(&mut self, input: &Value) {
        self.order_run(input);
        let (started, _) = self.message();
        assert!(matches!(started, ToSupervisor::Started { .. }), "{started:?}");
    }

    fn order_run(&mut self, input: &Value) {
        let run = ToHandler::Run { job: "a".into(), attempt: 1, slot: 0, deadline_ms: 600_000, traceparent: None };
        self.send(&run, json!({"id": "a", "input": input}).to_string().as_bytes());
    }

    /// `None` at the end of the connection.
    fn receive(&mut self) -> Result<Option<Received<ToSupervisor>>, FrameError> {
        loop {
            if let Some(received) = self.decoder.next()? {
                return Ok(Some(received));
            }
            if self.decoder.read_from(&mut self.stream).expect("a message in time") == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
        }
    }

    fn message(&mut self) -> (ToSupervisor, Vec<u8>) {
        match self.receive().unwrap() {
            Some(Received::Message(message, payload)) => (message, payload.to_vec()),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn output(&mut self) -> Value {
        let (message, payload) = self.message();
        assert!(matches!(message, ToSupervisor::Done { .. }), "{message:?}");
        serde_json::from_slice(&payload).unwrap()
    }

    /// Closes the connection and waits for the exit.
    fn abandon(self) -> ExitStatus {
        drop(self.stream);
        finish(self.child).status
    }

    /// Waits for the exit with the connection open.
    fn end(self) -> Output {
        finish(self.child)
    }
}

fn finish(child: Child) -> Output {
    let (sender, ended) = sync_channel(1);
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    ended.recv_timeout(STEP_TIMEOUT).expect("the process ends in time").unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_spinning_handler_is_killed_when_its_worker_exits() {
    let mut puppet = Puppet::loaded("");
    puppet.run(&json!({"do": "spin"}));
    assert_eq!(puppet.abandon().signal(), Some(SIGKILL));
}

#[test]
fn a_loading_handler_is_killed_when_its_worker_exits() {
    let mut puppet = Puppet::start("load_hang");
    puppet.message();
    puppet.send(
        &ToHandler::Hello {
            protocol: PROTOCOL_VERSION,
            worker_version: "0.1.0".into(),
            processes: 1,
            batch_reports: true,
        },
        b"",
    );
    let load = ToHandler::Load { worker_id: "w1".into(), slots: 1, device: "auto".into(), chunk_window: 8 };
    puppet.send(&load, b"");
    assert_eq!(puppet.abandon().signal(), Some(SIGKILL));
}

#[test]
fn shutdown_ends_with_success_and_user_output_stays_out_of_the_protocol() {
    let mut puppet = Puppet::loaded("");
    puppet.run(&json!({"do": "log", "lines": 2, "bytes": 3}));
    assert_eq!(puppet.output()["ok"], json!(true));
    puppet.send(&ToHandler::Shutdown, b"");
    let output = puppet.end();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "stdout 1 xxx\nstdout 2 xxx\n");
    assert!(stderr(&output).contains("stderr 2 xxx"));
}

#[test]
fn a_crash_or_an_exit_in_a_job_has_its_own_status() {
    for (input, signal, code) in [
        (json!({"do": "segv"}), Some(SIGSEGV), None),
        (json!({"do": "abort"}), Some(SIGABRT), None),
        (json!({"do": "exit", "code": 7}), None, Some(7)),
    ] {
        let mut puppet = Puppet::loaded("");
        puppet.order_run(&input);
        // A process that crashes at once may not have sent `Started`.
        while let Some(received) = puppet.receive().unwrap() {
            assert!(matches!(received, Received::Message(ToSupervisor::Started { .. }, _)), "{received:?}");
        }
        let status = puppet.end().status;
        assert_eq!((status.signal(), status.code()), (signal, code), "{input}");
    }
}

#[test]
fn an_output_over_the_limit_fails_only_its_job() {
    let mut puppet = Puppet::loaded("");
    puppet.run(&json!({"do": "big_output", "bytes": MAX_PAYLOAD_LEN}));
    let (message, report) = puppet.message();
    assert!(matches!(message, ToSupervisor::Failed { reloading: false, .. }), "{message:?}");
    let report: ErrorReport = serde_json::from_slice(&report).unwrap();
    assert_eq!(report.kind, ErrorKind::Protocol);
    assert!(report.message.contains("67108866 bytes of JSON, over the limit of 67108864 bytes"), "{}", report.message);
    puppet.run(&json!({"do": "ok"}));
    assert_eq!(puppet.output()["job"], json!("a"));
}

#[test]
fn a_frozen_process_stops_as_a_whole_and_can_be_killed() {
    let mut puppet = Puppet::loaded("");
    puppet.order_run(&json!({"do": "freeze"}));
    let (_, status) = waitpid(Some(Pid::from_child(&puppet.child)), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
    puppet.child.kill().unwrap();
    assert_eq!(puppet.end().status.signal(), Some(SIGKILL));
}

#[test]
fn started_without_a_worker_it_prints_how_to_start_it() {
    let output = finish(command().stdin(Stdio::null()).spawn().unwrap());
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    for words in ["runpod-worker run -- ./puppet-handler", "runpod-worker test --input", "runpod-endpoint dev --"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn the_manifest_is_printed_on_request() {
    let output = finish(command().arg("--manifest").stdin(Stdio::null()).spawn().unwrap());
    assert_eq!(output.status.code(), Some(0));
    let manifest: Manifest = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.streams), ("puppet-handler", true));
    assert!(manifest.input_schema.to_string().contains("sleep_ms"));
}

#[test]
fn the_error_about_another_protocol_version_names_it() {
    let mut puppet = Puppet::start("");
    puppet.message();
    puppet.send(
        &ToHandler::Hello { protocol: 999, worker_version: "9.9.9".into(), processes: 1, batch_reports: false },
        b"",
    );
    let output = puppet.end();
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("the worker 9.9.9 speaks protocol 999"), "{}", stderr(&output));
}

#[test]
fn a_failed_load_reports_the_reason_and_ends_the_process() {
    let mut puppet = Puppet::start("load_fail");
    puppet.message();
    puppet.send(
        &ToHandler::Hello {
            protocol: PROTOCOL_VERSION,
            worker_version: "0.1.0".into(),
            processes: 1,
            batch_reports: true,
        },
        b"",
    );
    let load = ToHandler::Load { worker_id: "w1".into(), slots: 1, device: "auto".into(), chunk_window: 8 };
    puppet.send(&load, b"");
    let (message, report) = puppet.message();
    assert_eq!(message, ToSupervisor::LoadFailed { slot: 0 });
    let report: ErrorReport = serde_json::from_slice(&report).unwrap();
    assert_eq!((report.kind, report.message.as_str()), (ErrorKind::Load, "the puppet does not load, as asked"));
    assert_eq!(puppet.end().status.code(), Some(1));
}

#[test]
fn each_raw_fault_is_what_its_name_says() {
    let mut puppet = Puppet::loaded("raw_oversize_result");
    puppet.run(&json!({}));
    let oversize = puppet.receive().unwrap();
    assert!(matches!(oversize, Some(Received::Oversize { payload_len, .. }) if payload_len == MAX_PAYLOAD_LEN + 1));

    let mut puppet = Puppet::loaded("raw_bad_header");
    puppet.run(&json!({}));
    assert!(matches!(puppet.receive().unwrap(), Some(Received::Unreadable { .. })));
    assert_eq!(puppet.output(), json!({"ok": true}));

    let mut puppet = Puppet::loaded("raw_oversize_header");
    puppet.run(&json!({}));
    assert!(matches!(puppet.receive(), Err(FrameError::HeaderTooLarge { .. })));

    let mut puppet = Puppet::loaded("raw_truncated");
    puppet.run(&json!({}));
    assert!(matches!(puppet.receive(), Err(FrameError::Truncated { missing: 96 })));

    let mut puppet = Puppet::loaded("raw_result_then_segv");
    puppet.run(&json!({}));
    assert_eq!(puppet.output(), json!({"ok": true}));
    assert!(puppet.receive().unwrap().is_none());
    assert_eq!(puppet.end().status.signal(), Some(SIGSEGV));
}
