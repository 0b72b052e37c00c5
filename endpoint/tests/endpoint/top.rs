//! `top` as a user sees it: the real program in a real terminal, which tmux provides.

use std::path::Path;
use std::process::{Output, Stdio};

use end_to_end_tests::{eventually, not_tested};
use serde_json::json;
use tokio::time::timeout;

use super::commands::serve;
use crate::support::{Api, SOON};

/// Prints `icanon` if the terminal gives whole lines again, `-icanon` if it does not. Short, for small screens.
const MODE: &str = "stty -a | tr ' ' '\\n' | grep icanon";

/// A terminal of its own, closed with the test.
struct Tmux {
    socket: tempfile::TempDir,
}

impl Tmux {
    async fn run(&self, args: &[&str]) -> Output {
        #[expect(clippy::disallowed_methods, reason = "the test provides the terminal")]
        let mut tmux = tokio::process::Command::new("tmux");
        tmux.arg("-S").arg(self.socket.path().join("tmux")).args(["-f", "/dev/null"]).args(args);
        // The screen shows letters beyond ASCII only where the locale says so.
        tmux.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        timeout(SOON, tmux.output()).await.unwrap().unwrap()
    }

    /// Starts `command` in a shell on a screen of this size.
    async fn start(size: (&str, &str), command: &str) -> Self {
        let tmux = Self { socket: tempfile::tempdir().unwrap() };
        let started = tmux.run(&["new-session", "-d", "-x", size.0, "-y", size.1, command]).await;
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        tmux
    }

    async fn press(&self, key: &str) {
        self.run(&["send-keys", key]).await;
    }

    async fn screen(&self) -> String {
        String::from_utf8(self.run(&["capture-pane", "-p"]).await.stdout).unwrap()
    }

    /// The screen, once it shows this.
    async fn screen_with(&self, text: &str) -> String {
        eventually(&format!("{text:?} on the screen"), || async {
            Some(self.screen().await).filter(|screen| screen.contains(text))
        })
        .await
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "the test takes the terminal away")]
        let mut tmux = std::process::Command::new("tmux");
        let _ = tmux.arg("-S").arg(self.socket.path().join("tmux")).arg("kill-server").output();
    }
}

/// Whether there is tmux, after an attempt to install it.
async fn has_tmux() -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/install-packages.sh");
    #[expect(clippy::disallowed_methods, reason = "the test installs what it needs")]
    let installed = tokio::process::Command::new(script).arg("tmux").status().await;
    let has_it = installed.is_ok_and(|status| status.success());
    if !has_it {
        not_tested("`top` in a terminal: there is no tmux");
    }
    has_it
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_seen_selected_and_cancelled_and_the_terminal_is_given_back() {
    if !has_tmux().await {
        return;
    }
    let api = Api::new();
    let local = runpod_endpoint::local::Local::default();
    let console = runpod_endpoint::console::Console::new(api.app.store.clone(), local, api.app.shutdown.clone());
    let keys = runpod_endpoint::api::Keys::default();
    let url = serve(api.router.clone().merge(runpod_endpoint::console::router(console, &keys))).await;
    let first = api.run(&json!({"input": {"prompt": "a red bicycle"}}).to_string()).await;
    let second = api.run(r#"{"input": 2}"#).await;
    api.take("worker-7").await;

    let program = env!("CARGO_BIN_EXE_runpod-endpoint");
    let command = format!("{program} top --url {url} --interval 100ms; echo ended $?; {MODE}; cat");
    let tmux = Tmux::start(("120", "30"), &command).await;
    let screen = tmux.screen_with(&second).await;
    assert!(screen.contains("in queue 1  in progress 1") && screen.contains("worker-7"), "{screen}");

    tmux.press("j").await;
    tmux.press("Enter").await;
    let screen = tmux.screen_with("a red bicycle").await;
    assert!(screen.contains(&first) && screen.contains("IN_PROGRESS"), "{screen}");
    tmux.press("Escape").await;
    tmux.screen_with("filter").await;

    tmux.press("g").await;
    tmux.press("c").await;
    tmux.screen_with(&format!("cancel {second}?")).await;
    tmux.press("y").await;
    tmux.screen_with("CANCELLED").await;
    assert_eq!(api.state(&second).await, "CANCELLED");

    tmux.run(&["resize-window", "-x", "70", "-y", "12"]).await;
    tmux.screen_with("RAN").await;
    tmux.press("q").await;
    let screen = tmux.screen_with("ended 0").await;
    assert!(!screen.contains("runpod-endpoint top"), "the former screen is back: {screen}");
    let screen = tmux.screen_with("icanon").await;
    assert!(!screen.contains("-icanon"), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back_too() {
    if !has_tmux().await {
        return;
    }
    let api = Api::new();
    let url = serve(api.router.clone()).await;
    let program = env!("CARGO_BIN_EXE_runpod-endpoint");
    let tmux = Tmux::start(("100", "24"), &format!("{program} top --url {url}; echo ended $?; {MODE}; cat")).await;
    // This endpoint has no console: `/health` and `/requests` are all there is.
    tmux.screen_with("no jobs").await;
    let shell = String::from_utf8(tmux.run(&["list-panes", "-F", "#{pane_pid}"]).await.stdout).unwrap();
    let shell = shell.trim();
    let top = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    let top = rustix::process::Pid::from_raw(top.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(top, rustix::process::Signal::TERM).unwrap();
    let screen = tmux.screen_with("ended 0").await;
    assert!(!screen.contains("no jobs"), "{screen}");
    let screen = tmux.screen_with("icanon").await;
    assert!(!screen.contains("-icanon"), "{screen}");
}
