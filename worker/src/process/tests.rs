//! Real children: shell scripts that speak the protocol by printing frames to their file descriptor 0.

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use runpod_handler_protocol::{StopReason, ToHandler, ToSupervisor, encode_header};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{HandlerCommand, Processes};
use crate::logs::LogFormat;
use crate::logs::capture::Capture;
use runpod_worker_core::{Event, Exit, ExitReason, Incarnation, ProcessEvent, ProcessId};

const P0: ProcessId = ProcessId(0);
/// Far above what anything here takes; reached only by a failing test.
const LIMIT: Duration = Duration::from_secs(20);

/// Processes that all run one script, and what is heard from them.
struct Fixture {
    processes: Processes,
    events: mpsc::Receiver<Event>,
}

impl Fixture {
    fn new(script: &str) -> Self {
        Self::with_command(shell(script))
    }

    fn with_command(command: HandlerCommand) -> Self {
        let (sender, events) = mpsc::channel(16);
        Self { processes: Processes::new(command, sender), events }
    }

    /// A fixture whose process 0 has been started.
    async fn started(script: &str) -> Self {
        let mut fixture = Self::new(script);
        fixture.processes.spawn(P0, Incarnation(1));
        let event = fixture.next().await;
        assert!(matches!(event, ProcessEvent::Spawned { .. }), "{event:?}");
        fixture
    }

    async fn next(&mut self) -> ProcessEvent {
        match within(self.events.recv()).await {
            Some(Event::Process { event, .. }) => event,
            other => panic!("{other:?}"),
        }
    }

    async fn exit(&mut self) -> Exit {
        match self.next().await {
            ProcessEvent::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("nothing happened in time")
}

fn shell(script: &str) -> HandlerCommand {
    HandlerCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()], env: Vec::new() }
}

/// Shell command that sends a message to the supervisor.
fn say(message: &ToSupervisor, payload: &str) -> String {
    let frame = [encode_header(message, payload.len()).unwrap(), payload.as_bytes().to_vec()].concat();
    let octal: String = frame.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{octal}' >&0;")
}

fn started(job: &str) -> ToSupervisor {
    ToSupervisor::Started { job: job.into(), attempt: 1, model: None }
}

fn done(job: &str) -> ToSupervisor {
    ToSupervisor::Done { job: job.into(), attempt: 1, refresh: false, records: Default::default() }
}

fn run(job: &str) -> ToHandler {
    ToHandler::Run { job: job.into(), attempt: 1, slot: 0, deadline_ms: 1000, traceparent: None }
}

/// Shows whether anybody from a process group is left: a named pipe that every member holds open for writing.
struct Witness {
    folder: tempfile::TempDir,
    pipe: pipe::Receiver,
}

impl Witness {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let pipe = pipe::OpenOptions::new().open_receiver(path).unwrap();
        Self { folder, pipe }
    }

    /// Shell command after which the script and all its children hold the pipe.
    fn hold(&self) -> String {
        format!("exec 3>{};", self.folder.path().join("pipe").display())
    }

    /// Returns when nobody holds the pipe any more. Call it once the script is known to have taken it.
    async fn all_gone(mut self) {
        assert_eq!(within(self.pipe.read(&mut [0])).await.unwrap(), 0);
    }

    /// Whether nobody holds the pipe any more, at this moment.
    fn is_released(&self) -> bool {
        matches!(rustix::io::read(&self.pipe, &mut [0; 1]), Ok(0))
    }
}

#[tokio::test]
async fn exit_code_and_last_lines() {
    let mut fixture = Fixture::started("for i in $(seq 25); do echo line $i >&2; done; echo out; exit 3").await;
    let exit = fixture.exit().await;
    assert_eq!(exit.status, ExitReason::Code(3));
    assert!(!exit.host_oom);
    let expected: Vec<String> = (6..=25).map(|i| format!("line {i}")).collect();
    assert_eq!(exit.last_lines, expected);
}

#[tokio::test]
async fn what_was_sent_before_a_crash_arrives_before_the_exit() {
    let script = format!("{}{} kill -SEGV $$", say(&started("a"), ""), say(&done("a"), "1"));
    let mut fixture = Fixture::started(&script).await;
    let event = fixture.next().await;
    assert!(matches!(&event, ProcessEvent::Message { message, .. } if *message == started("a")), "{event:?}");
    let event = fixture.next().await;
    assert!(
        matches!(&event, ProcessEvent::Message { message, payload } if *message == done("a") && payload == "1"),
        "{event:?}"
    );
    assert_eq!(fixture.exit().await.status, ExitReason::Signal(11));
}

#[tokio::test]
async fn messages_reach_the_handler_in_order_with_their_payloads() {
    let folder = tempfile::tempdir().unwrap();
    let received = folder.path().join("received");
    let big = Bytes::from(vec![b'x'; 3_000_000]);
    let mut expected = Vec::new();
    for (message, payload) in [(ToHandler::Ping { seq: 1 }, Bytes::new()), (run("a"), big.clone())] {
        expected.extend(encode_header(&message, payload.len()).unwrap());
        expected.extend(&payload);
    }
    let script = format!("head -c {} > {}; exit 7", expected.len(), received.display());
    let mut fixture = Fixture::started(&script).await;
    fixture.processes.send(P0, &ToHandler::Ping { seq: 1 }, Bytes::new());
    fixture.processes.send(P0, &run("a"), big);
    assert_eq!(fixture.exit().await.status, ExitReason::Code(7));
    assert!(fs::read(received).unwrap() == expected, "the bytes differ");
}

#[tokio::test]
async fn a_stream_out_of_step_is_closed() {
    // The prefix announces a header of 4 GiB. The script then ends because its socket is closed, not by itself.
    let mut fixture = Fixture::started(r"printf '\377\377\377\377\0\0\0\0' >&0; cat <&0 >/dev/null; exit 5").await;
    let event = fixture.next().await;
    assert!(matches!(&event, ProcessEvent::BadFrame { reason } if reason.contains("limit")), "{event:?}");
    assert_eq!(fixture.exit().await.status, ExitReason::Code(5));
}

#[tokio::test]
async fn an_unknown_message_is_reported_and_the_next_one_still_read() {
    let script = format!(r"printf '\002\0\0\0\0\0\0\0{{}}' >&0; {}", say(&started("a"), ""));
    let mut fixture = Fixture::started(&script).await;
    let event = fixture.next().await;
    assert!(matches!(event, ProcessEvent::BadFrame { .. }), "{event:?}");
    let event = fixture.next().await;
    assert!(matches!(event, ProcessEvent::Message { .. }), "{event:?}");
    assert_eq!(fixture.exit().await.status, ExitReason::Code(0));
}

#[tokio::test]
async fn kill_ends_the_whole_group() {
    let witness = Witness::new();
    let script = format!("{} sleep 1000 & {} wait", witness.hold(), say(&started("a"), ""));
    let mut fixture = Fixture::started(&script).await;
    fixture.next().await;
    fixture.processes.kill(P0);
    let exit = fixture.exit().await;
    assert_eq!(exit.status, ExitReason::Signal(9));
    assert!(!exit.host_oom, "the worker's own kill is not the kernel's");
    witness.all_gone().await;
}

#[tokio::test]
async fn dropping_kills_everything() {
    let witness = Witness::new();
    let script = format!("{} sleep 1000 & {} wait", witness.hold(), say(&started("a"), ""));
    let mut fixture = Fixture::started(&script).await;
    fixture.next().await;
    drop(fixture);
    witness.all_gone().await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_socket_delays_the_exit_only_briefly() {
    let witness = Witness::new();
    let script = format!("{} exec 4<&0; sleep 1000 <&4 & echo last words >&2; exit 4", witness.hold());
    let mut fixture = Fixture::started(&script).await;
    let exit = fixture.exit().await;
    assert_eq!(exit, Exit { status: ExitReason::Code(4), host_oom: false, last_lines: vec!["last words".into()] });
    witness.all_gone().await;
}

#[tokio::test]
async fn a_grandchild_that_left_the_group_cannot_withhold_the_last_words() {
    // `cat` holds the socket and stderr until the supervisor closes the socket, and no signal to the group reaches it.
    let mut fixture = Fixture::started("exec 4<&0; printf 'last words' >&2; setsid cat <&4 >/dev/null & exit 4").await;
    assert_eq!(fixture.exit().await.last_lines, ["last words"]);
}

#[tokio::test]
async fn a_grandchild_that_holds_nothing_is_ended_too() {
    let witness = Witness::new();
    let script = format!("{} sleep 1000 >/dev/null 2>&1 </dev/null & exit 0", witness.hold());
    let mut fixture = Fixture::started(&script).await;
    assert_eq!(fixture.exit().await.status, ExitReason::Code(0));
    witness.all_gone().await;
}

/// Ways to leave the process group of a handler. Each keeps the pipe of a witness and runs for long.
const ESCAPES: [&str; 5] = [
    "setsid sleep 1000 >/dev/null 2>&1 </dev/null &",
    "(setsid sleep 1000 >/dev/null 2>&1 </dev/null &);",
    "setsid sh -c 'setsid sleep 1000 & sleep 1000 & wait' >/dev/null 2>&1 </dev/null &",
    "(setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000; true' >/dev/null 2>&1 </dev/null &);",
    // Holds the socket too.
    "exec 4<&0; (setsid sleep 1000 <&4 &);",
];

#[tokio::test]
async fn descendants_in_sessions_of_their_own_are_killed_before_the_exit_is_reported() {
    for escape in ESCAPES {
        let witness = Witness::new();
        let script = format!("{} {escape} {} sleep 1000", witness.hold(), say(&started("a"), ""));
        let mut fixture = Fixture::started(&script).await;
        fixture.next().await;
        assert!(!witness.is_released());
        fixture.processes.kill(P0);
        fixture.exit().await;
        assert!(witness.is_released(), "after a kill: {escape}");
    }
}

#[tokio::test]
async fn descendants_in_sessions_of_their_own_do_not_survive_a_crash() {
    for escape in ESCAPES {
        let witness = Witness::new();
        let script = format!("{} {escape} {} kill -SEGV $$", witness.hold(), say(&started("a"), ""));
        let mut fixture = Fixture::started(&script).await;
        fixture.next().await;
        assert_eq!(fixture.exit().await.status, ExitReason::Signal(11));
        assert!(witness.is_released(), "{escape}");
    }
}

#[tokio::test]
async fn dropping_kills_descendants_in_sessions_of_their_own() {
    for escape in ESCAPES {
        let witness = Witness::new();
        let script = format!("{} {escape} {} sleep 1000", witness.hold(), say(&started("a"), ""));
        let mut fixture = Fixture::started(&script).await;
        fixture.next().await;
        drop(fixture);
        assert!(witness.is_released(), "{escape}");
    }
}

#[tokio::test]
async fn what_another_handler_process_has_started_runs_on() {
    let (first, second) = (Witness::new(), Witness::new());
    let script =
        |witness: &Witness, escape| format!("{} {escape} {} sleep 1000", witness.hold(), say(&started("a"), ""));
    let mut other = Fixture::started(&script(&second, ESCAPES[1])).await;
    other.next().await;
    let mut fixture = Fixture::started(&script(&first, ESCAPES[1])).await;
    fixture.next().await;
    fixture.processes.kill(P0);
    fixture.exit().await;
    assert!(first.is_released() && !second.is_released());
    other.processes.kill(P0);
    other.exit().await;
    assert!(second.is_released());
}

#[tokio::test]
async fn orphans_that_exit_by_themselves_are_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    // The middle process exits at once; the sleeper becomes a child of the worker.
    let script = format!("sh -c 'sleep 0.2 & echo $! >{}'; {} sleep 1000", file.display(), say(&started("a"), ""));
    let mut fixture = Fixture::started(&script).await;
    fixture.next().await;
    let pid = fs::read_to_string(file).unwrap();
    within(async {
        while Path::new("/proc").join(pid.trim()).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn temporary_files_go_with_the_process_before_its_exit_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("path");
    let script = format!(
        "mkdir $RUNPOD_HANDLER_TEMP_DIR/job-1; touch $RUNPOD_HANDLER_TEMP_DIR/job-1/large; \
         echo $RUNPOD_HANDLER_TEMP_DIR >{}; {} sleep 1000",
        file.display(),
        say(&started("a"), "")
    );
    let mut fixture = Fixture::started(&script).await;
    fixture.next().await;
    let path = fs::read_to_string(file).unwrap();
    let path = Path::new(path.trim());
    assert!(path.join("job-1/large").exists());
    fixture.processes.kill(P0);
    fixture.exit().await;
    assert!(!path.exists());
    let run = path.parent().unwrap();
    assert!(run.exists());
    drop(fixture);
    assert!(!run.exists(), "nothing is left of the worker");
}

#[tokio::test]
async fn a_start_kills_what_a_killed_worker_has_left() {
    let (temporary, witness) = (tempfile::tempdir().unwrap(), Witness::new());
    let abandoned = super::run_folder::RunFolder::create(temporary.path()).unwrap();
    let folder = abandoned.for_process(P0, Incarnation(1)).unwrap();
    let script = format!(
        "{} RUNPOD_HANDLER_TEMP_DIR={} {} {} sleep 1000",
        witness.hold(),
        folder.display(),
        ESCAPES[0],
        say(&started("a"), "")
    );
    let mut fixture = Fixture::started(&script).await;
    fixture.next().await;
    // Its lock is released, as when the kernel ends its worker.
    drop(abandoned);
    let _own = super::run_folder::RunFolder::create(temporary.path()).unwrap();
    assert!(!folder.exists());
    fixture.processes.kill(P0);
    fixture.exit().await;
    witness.all_gone().await;
}

#[tokio::test]
async fn a_kill_during_the_start_is_not_lost() {
    let mut fixture = Fixture::new("sleep 1000");
    fixture.processes.spawn(P0, Incarnation(1));
    fixture.processes.kill(P0);
    assert!(matches!(fixture.next().await, ProcessEvent::Spawned { .. }));
    assert_eq!(fixture.exit().await.status, ExitReason::Signal(9));
}

#[tokio::test]
async fn a_process_whose_queue_overflows_is_killed() {
    let mut fixture = Fixture::started("sleep 1000").await;
    let payload = Bytes::from(vec![0; 1_000_000]);
    for seq in 0..400 {
        fixture.processes.send(P0, &ToHandler::Ping { seq }, payload.clone());
    }
    assert_eq!(fixture.exit().await.status, ExitReason::Signal(9));
}

#[tokio::test]
async fn a_process_that_reads_late_is_not_killed_for_what_its_slots_have_waiting() {
    const SLOTS: u32 = 500;
    const WINDOW: u32 = 32;
    let mut fixture = Fixture::new("sleep 1; exit 7");
    fixture.processes.spawn(P0, Incarnation(1));
    assert!(matches!(fixture.next().await, ProcessEvent::Spawned { .. }));
    let load = ToHandler::Load { worker_id: "w".into(), slots: 1, device: "cpu".into(), chunk_window: WINDOW };
    fixture.processes.send(P0, &load, Bytes::new());
    // As with a handler that runs batches: more slots than models.
    for slot in 0..SLOTS {
        let job = || format!("job-{slot}");
        let message = ToHandler::Run { job: job(), attempt: 1, slot, deadline_ms: 1000, traceparent: None };
        fixture.processes.send(P0, &message, Bytes::from_static(b"{}"));
        let stop = ToHandler::Stop { job: job(), attempt: 1, reason: StopReason::Cancelled };
        fixture.processes.send(P0, &stop, Bytes::new());
        for seq in 1..=u64::from(WINDOW) {
            fixture.processes.send(P0, &ToHandler::ChunkAck { job: job(), attempt: 1, seq }, Bytes::new());
        }
        fixture.processes.send(P0, &ToHandler::Probe { slot }, Bytes::new());
    }
    assert_eq!(fixture.exit().await.status, ExitReason::Code(7), "it exits by itself");
}

#[tokio::test]
async fn events_carry_process_and_incarnation() {
    let mut fixture = Fixture::new("exit 0");
    for incarnation in [1, 2] {
        fixture.processes.spawn(ProcessId(3), Incarnation(incarnation));
        for _ in ["spawned", "gone"] {
            let event = within(fixture.events.recv()).await;
            let Some(Event::Process { id, incarnation: seen, .. }) = event else { panic!("{event:?}") };
            assert_eq!((id, seen), (ProcessId(3), Incarnation(incarnation)));
        }
    }
}

#[tokio::test]
async fn a_program_that_cannot_run_is_a_permanent_failure_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    let garbage = folder.path().join("garbage");
    fs::write(&garbage, [0x7f; 64]).unwrap();
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o755)).unwrap();
    for (program, fix) in
        [(Path::new("/no/such/handler"), "path after"), (&plain, "chmod +x"), (&garbage, "architecture")]
    {
        let mut fixture =
            Fixture::with_command(HandlerCommand { program: program.into(), ..HandlerCommand::default() });
        fixture.processes.spawn(P0, Incarnation(1));
        let event = fixture.next().await;
        let ProcessEvent::SpawnFailed { reason, permanent: true } = &event else { panic!("{event:?}") };
        assert!(reason.contains(fix) && reason.contains(&program.display().to_string()), "{reason}");
    }
}

#[tokio::test]
async fn environment_is_added_per_command_and_per_process() {
    let variable = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
    let mut command = shell("echo $ONE $TWO >&2");
    command.env = vec![variable("ONE", "1"), variable("TWO", "common")];
    let mut fixture = Fixture::with_command(command);
    fixture.processes = fixture.processes.with_process_env(ProcessId(1), vec![variable("TWO", "own")]);
    for (id, expected) in [(ProcessId(0), "1 common"), (ProcessId(1), "1 own")] {
        fixture.processes.spawn(id, Incarnation(1));
        fixture.next().await;
        assert_eq!(fixture.exit().await.last_lines, [expected]);
    }
}

#[tokio::test]
async fn output_is_logged_with_the_job_that_runs_alone() {
    let (log, _guard) = Capture::start(LogFormat::Json, "w-1");
    let script = format!(
        "echo before; head -c 1 >/dev/null; echo during; echo on stderr >&2; {} exit 0",
        say(&started("a"), "")
    );
    let mut fixture = Fixture::started(&script).await;
    let before = r#"{"requestId":null,"message":"before","level":"INFO","worker":"w-1","process":0,"stream":"stdout"}"#;
    within(async {
        while !log.text().contains(before) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fixture.processes.send(P0, &run("j-1"), Bytes::new());
    fixture.next().await;
    fixture.exit().await;
    for (stream, text) in [("stdout", "during"), ("stderr", "on stderr")] {
        let line = format!(
            r#"{{"requestId":"j-1","message":"{text}","level":"INFO","worker":"w-1","process":0,"stream":"{stream}"}}"#
        );
        assert!(log.text().contains(&line), "{}", log.text());
    }
}
