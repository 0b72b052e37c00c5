//! `runpod-endpoint dev` with the real worker: what the death of one leaves behind.

use std::net::TcpListener;
use std::path::PathBuf;

use end_to_end_tests::{Client, Daemon, binary, eventually, free_port, repository};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

async fn dev(handler: &str, flags: &[&str], env: &[(&str, &str)]) -> (Daemon, Client) {
    dev_with(handler, &[&["--worker-http-port", "0"], flags].concat(), env).await
}

async fn dev_with(handler: &str, flags: &[&str], env: &[(&str, &str)]) -> (Daemon, Client) {
    let address = format!("127.0.0.1:{}", free_port());
    let handler = binary(handler).to_string_lossy().into_owned();
    let args = [&["dev", "--bind", &address], flags, &["--", &handler]].concat();
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let daemon = Daemon::start("dev", &binary("runpod-endpoint"), &args, &env);
    let base = format!("http://{address}/v2/local");
    eventually("the endpoint to answer", || async { reqwest::get(format!("{base}/health")).await.ok() }).await;
    (daemon, Client::new(&base))
}

fn proc(pid: Pid, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{file}", pid.as_raw_nonzero()))
}

fn children(pid: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(proc(pid, "task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .filter_map(Pid::from_raw)
        .collect()
}

/// Whether a process has ended; a zombie counts as ended.
fn is_gone(pid: Pid) -> bool {
    std::fs::read_to_string(proc(pid, "stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// The worker and its handler, once a job has shown that both work.
async fn at_work(dev: &Daemon, client: &Client) -> [Pid; 2] {
    let job = client.run(json!({"text": "hello"})).await;
    assert_eq!((&job["status"], &job["workerId"]), (&json!("COMPLETED"), &json!("local-0")));
    let runs = |pid: &Pid| std::fs::read_to_string(proc(*pid, "cmdline")).is_ok_and(|line| line.contains("\0run\0"));
    let worker = children(dev.pid()).into_iter().find(runs).unwrap();
    let handler = children(worker).into_iter().find(|pid| !is_gone(*pid)).unwrap();
    [worker, handler]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_a_killed_endpoint_leaves_nothing_running() {
    let (dev, client) = dev("echo", &[], &[]).await;
    let first = at_work(&dev, &client).await;
    kill_process(first[0], Signal::KILL).unwrap();
    eventually("the first worker and its handler to be gone", || async {
        first.iter().all(|pid| is_gone(*pid)).then_some(())
    })
    .await;
    let second = at_work(&dev, &client).await;
    let spools = std::fs::read_dir(dev.folder().join("spool")).unwrap();
    let spools: Vec<_> = spools.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(spools, ["local-0"], "each process of a worker uses the same spool");

    dev.signal(Signal::KILL);
    eventually("the second worker and its handler to be gone", || async {
        second.iter().all(|pid| is_gone(*pid)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_port_is_taken_before_it_starts_serves_at_another_one() {
    let (dev, client) = dev_with("echo", &["--workers-min", "0"], &[]).await;
    let log = dev.log();
    let later = log.split_once("own servers use ").and_then(|(_, port)| port.split(' ').next()?.parse().ok());
    let port = later.unwrap_or(8001_u16);
    // Unless another program has it already.
    let held = TcpListener::bind(("127.0.0.1", port));
    at_work(&dev, &client).await;
    assert!(held.is_err() || dev.log().contains(&format!("Port {port} is in use")), "{}", dev.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_asks_to_be_replaced_may_finish_its_other_jobs() {
    let (_dev, client) = dev("puppet-handler", &["--stop-grace", "1s"], &[("RUNPOD_WORKER_SLOTS", "2")]).await;
    let beside = client.submit(json!({"do": "sleep_ms", "ms": 4000})).await;
    client.reaches(&beside, "IN_PROGRESS").await;
    let weary = client.run(json!({"do": "refresh"})).await;
    let beside = client.finished(&beside).await;
    assert_eq!((&beside["status"], &beside["output"]["attempt"]), (&json!("COMPLETED"), &json!(1)), "{beside}");
    assert_eq!(beside["output"]["pid"], weary["output"]["pid"]);
    let next = client.run(json!({"do": "ok"})).await;
    assert_ne!(next["output"]["pid"], weary["output"]["pid"], "and is replaced then");
}

/// Puts another program into the place of a handler, as a linker does.
fn install(program: &str, handler: &std::path::Path) {
    let new = handler.with_extension("new");
    std::fs::copy(binary(program), &new).unwrap();
    std::fs::rename(new, handler).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_built_anew_is_started_anew_and_no_job_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    // Programs of this workspace look for libtorch two folders above.
    std::os::unix::fs::symlink(repository().join(".libtorch"), folder.path().join(".libtorch")).unwrap();
    let handler = folder.path().join("target/debug/handler");
    std::fs::create_dir_all(handler.parent().unwrap()).unwrap();
    install("puppet-handler", &handler);
    let address = format!("127.0.0.1:{}", free_port());
    let args = ["dev", "--bind", &address, "--worker-http-port", "0", "--", &handler.to_string_lossy()];
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let dev = Daemon::start("dev", &binary("runpod-endpoint"), &args, &[]);
    let base = format!("http://{address}/v2/local");
    eventually("the endpoint to answer", || async { reqwest::get(format!("{base}/health")).await.ok() }).await;
    let client = Client::new(&base);
    let first = client.run(json!({"do": "ok"})).await;

    let running = client.submit(json!({"do": "sleep_ms", "ms": 4000})).await;
    client.reaches(&running, "IN_PROGRESS").await;
    install("puppet-handler", &handler);
    dev.logs("The handler program has changed").await;
    let waiting = client.submit(json!({"do": "ok"})).await;
    let (running, waiting) = (client.finished(&running).await, client.finished(&waiting).await);
    assert_eq!((&running["status"], &running["output"]["pid"]), (&json!("COMPLETED"), &first["output"]["pid"]));
    assert_eq!(waiting["status"], "COMPLETED", "{waiting}");
    assert_ne!(waiting["output"]["pid"], first["output"]["pid"], "it ran in the new program");

    // Another handler: its input is suggested, and what is suggested works.
    install("echo", &handler);
    dev.logs("\"input\":{\"text\"").await;
    let log = dev.log();
    let suggested = log.lines().rev().find_map(|line| line.split_once("Try: ")).unwrap().1;
    let answer = end_to_end_tests::run_tool("/bin/sh", &["-c", suggested]);
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.contains("COMPLETED") && answer.contains("\"output\":{\"text\":\"text\"}"), "{suggested}: {answer}");
}
