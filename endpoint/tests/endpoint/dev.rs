//! `dev`: starts, restarts and ends workers. The worker is a shell script.

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use crate::commands::program;
use crate::support::SOON;

pub(crate) struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    folder: TempDir,
}

/// Idles, but not for longer than `dev` lives.
const IDLE: &str = "while kill -0 $PPID 2>/dev/null; do sleep 0.1; done";

/// The endpoint's own secrets.
const SECRETS: [(&str, &str); 4] = [
    ("RUNPOD_ENDPOINT_ALERT_WEBHOOK", "http://127.0.0.1:9/alert-secret"),
    ("RUNPOD_ENDPOINT_API_KEY", "client-secret"),
    ("RUNPOD_ENDPOINT_WEBHOOK_SECRET", "webhook-secret"),
    ("RUNPOD_ENDPOINT_WORKER_KEY", "worker-secret"),
];

/// Starts `dev` with a worker that runs `script`; everything the worker prints is seen by [`Dev::line`].
///
/// The worker program is the shell, for which `run`, the first argument of every worker, is the script to read. A
/// script that is executed itself could be refused as busy: another test may fork while it is being written.
pub(crate) fn start(script: &str, args: &[&str]) -> Dev {
    start_with(script, args, &[("RUNPOD_ENDPOINT_WORKER_KEY", "worker-secret")])
}

fn start_with(script: &str, args: &[&str], env: &[(&str, &str)]) -> Dev {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run"), script.replace("IDLE", IDLE)).unwrap();
    let mut command = program();
    command.current_dir(folder.path()).args(["dev", "--bind", "127.0.0.1:0", "--worker-bin", "/bin/sh"]).args(args);
    command.args(["--", "./handler", "--flag"]).envs(env.iter().copied());
    command.env_remove("RUNPOD_WORKER_LOG_FORMAT");
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Dev { child, lines, folder }
}

impl Dev {
    /// The rest of the next line that starts with `prefix`.
    pub(crate) async fn line(&mut self, prefix: &str) -> String {
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return rest.to_owned();
                }
            }
            panic!("no line starts with {prefix}");
        };
        timeout(SOON, reading).await.unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn exit_code(mut self) -> Option<i32> {
        timeout(SOON, self.child.wait()).await.unwrap().unwrap().code()
    }
}

fn process(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn workers_get_the_platforms_variables_and_no_secret_of_the_endpoint() {
    let script = r#"echo "args $0 $*"; env | grep -E '^RUNPOD_' | sed 's/^/env /'; echo end; IDLE"#;
    let args = ["--worker-http-port", "9100", "--worker-arg=--prefetch=1"];
    let mut dev = start_with(script, &args, &SECRETS);
    let base = dev.line("RunPod-compatible endpoint: ").await;
    assert_eq!(dev.line("args ").await, "run --prefetch=1 -- ./handler --flag");
    let mut variables = Vec::new();
    while let Some(line) = timeout(SOON, dev.lines.next_line()).await.unwrap().unwrap() {
        let Some(variable) = line.strip_prefix("env ") else { break };
        variables.push(variable.to_owned());
    }
    for expected in [
        format!("RUNPOD_WEBHOOK_GET_JOB={base}/job-take/$ID?gpu=LOCAL"),
        format!("RUNPOD_WEBHOOK_POST_OUTPUT={base}/job-done/$RUNPOD_POD_ID/$ID?gpu=LOCAL"),
        format!("RUNPOD_WEBHOOK_POST_STREAM={base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=LOCAL"),
        format!("RUNPOD_WEBHOOK_PING={base}/ping/$RUNPOD_POD_ID?gpu=LOCAL"),
        "RUNPOD_PING_INTERVAL=10000".to_owned(),
        "RUNPOD_AI_API_KEY=worker-secret".to_owned(),
        "RUNPOD_ENDPOINT_ID=local".to_owned(),
        "RUNPOD_POD_ID=local-0".to_owned(),
        "RUNPOD_WORKER_STOP_WITH_STDIN=true".to_owned(),
        "RUNPOD_WORKER_HTTP_BIND=127.0.0.1:9100".to_owned(),
        "RUNPOD_WORKER_LOG_FORMAT=text".to_owned(),
    ] {
        assert!(variables.contains(&expected), "{expected} is missing in {variables:#?}");
    }
    for (name, _) in SECRETS {
        assert!(!variables.iter().any(|variable| variable.starts_with(name)), "{name} in {variables:#?}");
    }
}

#[tokio::test]
async fn a_second_dev_takes_the_next_free_port_for_its_worker() {
    // Somebody listens there, whether it is this test or another program.
    let _held = std::net::TcpListener::bind("127.0.0.1:8001");
    let mut dev = start(r#"echo "bind $RUNPOD_WORKER_HTTP_BIND"; IDLE"#, &[]);
    let bind = dev.line("bind 127.0.0.1:").await;
    assert!(bind.parse::<u16>().unwrap() > 8001, "{bind}");
}

#[tokio::test]
async fn a_chosen_worker_port_that_is_in_use_is_refused_with_its_flag() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let mut command = program();
    command.args([
        "dev",
        "--bind",
        "127.0.0.1:0",
        "--worker-bin",
        "/bin/sh",
        "--worker-http-port",
        &port,
        "--",
        "handler",
    ]);
    let ended = timeout(SOON, command.output()).await.unwrap().unwrap();
    let error = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(64), "{error}");
    assert!(error.contains("--worker-http-port") && error.contains(&port), "{error}");
}

#[tokio::test]
async fn a_mistyped_endpoint_is_not_found_and_the_answer_names_the_right_one() {
    let mut dev = start("IDLE", &["--endpoint-id", "images"]);
    let url = dev.line("RunPod-compatible endpoint: ").await;
    let other = url.replace("/images", "/image");
    let client = reqwest::Client::new();
    for request in [client.get(format!("{other}/health")), client.post(format!("{other}/run")).body(r#"{"input": 1}"#)]
    {
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), 404);
        let text = reply.text().await.unwrap();
        assert!(text.contains(r#"there is no endpoint \"image\" here; use \"images\""#), "{text}");
    }
    assert_eq!(client.get(format!("{url}/health")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_worker_that_dies_is_replaced_under_its_old_name() {
    let mut dev = start(r#"echo "life $RUNPOD_POD_ID"; exit 1"#, &[]);
    assert_eq!(dev.line("life ").await, "local-0");
    assert_eq!(dev.line("life ").await, "local-0", "what it left in its spool is found again");
}

#[tokio::test]
async fn a_worker_hears_that_dev_was_killed() {
    let mut dev = start(r#"echo started; cat; touch heard"#, &[]);
    dev.line("started").await;
    dev.child.kill().await.unwrap();
    let heard = async {
        while !dev.folder.path().join("heard").exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, heard).await.unwrap();
}

#[tokio::test]
async fn a_configuration_error_ends_dev() {
    let dev = start("exit 64", &["--workers", "2"]);
    assert_eq!(dev.exit_code().await, Some(64));
}

#[tokio::test]
async fn a_stop_signal_is_passed_on_and_waited_for() {
    let script = r#"trap 'echo leaving; exit 0' TERM; echo "pid $$"; IDLE"#;
    for signal in [Signal::TERM, Signal::INT] {
        let mut dev = start(script, &[]);
        let worker = process(&dev.line("pid ").await);
        dev.signal(signal);
        dev.line("leaving").await;
        assert_eq!(dev.exit_code().await, Some(0));
        assert!(test_kill_process(worker).is_err(), "the worker is still there");
    }
}

#[tokio::test]
async fn a_worker_that_does_not_leave_is_killed_with_its_children() {
    let script = r#"trap '' TERM; (sh -c 'echo "child $PPID"'; IDLE) & IDLE"#;
    let mut dev = start(script, &["--stop-grace", "100ms"]);
    let child = process(&dev.line("child ").await);
    dev.signal(Signal::TERM);
    assert_eq!(dev.exit_code().await, Some(0));
    let gone = async {
        // Orphans are reaped by init, a moment after they are killed.
        while is_alive(child) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
}

/// A killed process that nobody has reaped yet counts as gone.
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_second_signal_skips_the_waiting() {
    let script = r#"trap 'echo asked' TERM; echo "pid $$"; IDLE"#;
    let mut dev = start(script, &["--stop-grace", "1h"]);
    let worker = process(&dev.line("pid ").await);
    dev.signal(Signal::TERM);
    dev.line("asked").await;
    let code = async {
        loop {
            // Signals that arrive together count as one.
            dev.signal(Signal::TERM);
            if let Ok(status) = timeout(std::time::Duration::from_millis(50), dev.child.wait()).await {
                return status.unwrap().code();
            }
        }
    };
    assert_eq!(timeout(SOON, code).await.unwrap(), Some(0));
    assert!(test_kill_process(worker).is_err());
}

#[tokio::test]
async fn a_refreshing_worker_is_replaced() {
    let script = r#"trap 'exit 0' TERM; echo "life $$"; IDLE"#;
    let mut dev = start(script, &[]);
    let base = dev.line("RunPod-compatible endpoint: ").await;
    let first = dev.line("life ").await;
    let client = reqwest::Client::new();
    let done = client.post(format!("{base}/job-done/local-0/job?isStream=false")).body(r#"{"stopPod": true}"#);
    done.header("Authorization", "worker-secret").send().await.unwrap().error_for_status().unwrap();
    assert_ne!(dev.line("life ").await, first);
}

#[tokio::test]
async fn a_receiver_on_this_machine_is_accepted_by_dev_and_refused_by_serve() {
    let submit = async |base: String, host: &str| {
        let body = format!(r#"{{"input": 1, "webhook": "http://{host}:9/hook"}}"#);
        let request = reqwest::Client::new().post(format!("{base}/run")).body(body);
        let reply = timeout(SOON, request.send()).await.unwrap().unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    };
    let mut dev = start("IDLE", &[]);
    let base = dev.line("RunPod-compatible endpoint: ").await;
    for (host, status) in [("127.0.0.1", 200), ("localhost", 200), ("[::1]", 200), ("10.0.0.1", 400)] {
        assert_eq!(submit(base.clone(), host).await.0, status, "{host}");
    }
    let mut serve = program();
    let mut serve = serve.args(["serve", "--bind", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(serve.stdout.take().unwrap()).lines();
    let first = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
    let base = first.strip_prefix("RunPod-compatible endpoint: ").unwrap().to_owned();
    let (status, text) = submit(base, "localhost").await;
    assert!(status == 400 && text.contains("--webhook-allow 127.0.0.0/8"), "{text}");
    serve.kill().await.unwrap();
}
